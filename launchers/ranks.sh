# shellcheck shell=bash
# What the mpirun and srun wrappers share: sourced, never run.

launchers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cluster/environment.sh
. "$launchers/../cluster/environment.sh"

# The real program of that name: this folder may stand first on PATH.
real_program() {
  local candidate
  while read -r candidate; do
    if [ "$(cd "$(dirname "$candidate")" && pwd)" != "$launchers" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done < <(type -aP "$1")
  printf '%s: no %s on PATH\n' "${0##*/}" "$1" >&2
  exit 127
}

# Processors this process may use: the affinity mask, or less where a container's CPU quota allows less.
usable_cores() {
  local cores quota period
  cores=$(nproc)
  if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [ "$quota" != max ]; then
    quota=$(((quota + period - 1) / period))
    if [ "$quota" -lt "$cores" ]; then cores=$quota; fi
  fi
  printf '%s\n' "$cores"
}

# Which of credence's commands is among the arguments; nothing where none is.
credence_command() {
  local previous="" argument
  for argument in "$@"; do
    if [ "${previous##*/}" = credence ]; then
      case $argument in
        train | pack | evaluate | predict | export | inspect | plan | doctor)
          printf '%s\n' "$argument"
          return
          ;;
      esac
    fi
    previous=$argument
  done
}

# Runs a command to its end and returns its exit code. TERM, INT, HUP and USR2 reach it as USR2: finish the step, write a
# checkpoint, exit 75. A second INT or TERM ends it at once. Credence's commands that have nothing to go on from, all but
# train and pack, are ended at once by the first. The command gets a process group of its own, so that the
# terminal's Ctrl-C comes here alone: mpirun would leave its ranks one second.
run_until_done() {
  local code=0 previous="" stops=0 interrupted=0 child=0 signal=USR2 notice
  case $(credence_command "$@") in
    train) notice="stopping after this step, with a checkpoint (once more: at once)" ;;
    pack) notice="stopping, the same command goes on (once more: at once)" ;;
    "") notice="asked to stop (once more: at once)" ;;
    *)
      signal=TERM
      notice="stopping at once"
      ;;
  esac
  # shellcheck disable=SC2317  # called by the traps
  stop_at_step_end() {
    interrupted=1
    stops=$((stops + $1))
    if [ "$child" = 0 ]; then return; fi
    if [ "$stops" -gt 1 ]; then
      kill -TERM "$child" 2>/dev/null || :
    else
      if [ "$1" = 1 ]; then
        printf '%s: %s\n' "${0##*/}" "$notice" >&2
      fi
      kill -"$signal" "$child" 2>/dev/null || :
    fi
  }
  # A launcher's ranks write to a pipe: whether a person is watching, and how wide the window is, only this shell knows.
  if [ -t 2 ]; then
    local columns=""
    columns=$(stty size 2>/dev/null </dev/tty | cut -d ' ' -f 2) || :
    export CREDENCE_TERMINAL_COLUMNS=${columns:-80}
  fi
  trap 'stop_at_step_end 1' TERM INT HUP
  trap 'stop_at_step_end 0' USR2
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  # A signal that came before there was anybody to tell.
  if [ "$interrupted" = 1 ]; then kill -"$signal" "$child" 2>/dev/null || :; fi
  while :; do
    interrupted=0
    code=0
    wait "$child" || code=$?
    # Bash tells a child's code once. It is unknown now if it was told just before a signal came.
    if [ "$code" = 127 ] && [ -n "$previous" ]; then code=$previous; fi
    if [ "$interrupted" = 0 ]; then break; fi
    previous=$code
  done
  trap - TERM INT HUP USR2
  return "$code"
}
