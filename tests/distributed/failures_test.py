"""A hang is never silent: every way to lose a rank ends in time, with the right exit codes and the culprit's name."""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

TIMEOUT = 2.0  # seconds of the communicator
START = 2 * TIMEOUT  # for ranks to find each other, where they do not
ASKING = 1.0  # to find out who still answers
GRACE = 1.5  # for the others to leave
MPIRUN = 6.0  # start, and killing what is left
LOST, USAGE = 76, 2

# name, exit code of mpirun, exit code of the ranks but 1, of rank 1 (None: killed, maybe, or stopped), seconds at most, text
WAITING = TIMEOUT + ASKING + GRACE + MPIRUN
WORKING = 3 * TIMEOUT + MPIRUN
SCENARIOS = [
    ("done", 0, 0, 0, MPIRUN, None),
    ("stopped", 75, 75, 75, MPIRUN, None),
    ("stop", LOST, LOST, None, WAITING, r"no answer from rank 1 on "),
    ("stop-fast", LOST, LOST, None, WAITING, r"no answer from rank 1 on "),
    ("stop-thread", LOST, LOST, None, WAITING, r"no answer from rank 1 on "),
    ("stop-at-the-end", LOST, LOST, None, WAITING, r"every rank to come to the end; no answer from rank 1 on "),
    ("never-starts", LOST, None, None, START + MPIRUN, r"error: on \S+: waited 4 s for MPI to start: a rank of this job has not "),
    ("stop-at-the-start", LOST, LOST, None, 2 * START + MPIRUN, r"waited 4 s for all ranks to say on which host they are"),
    ("works", 0, 0, 0, WORKING, r"waited \d s for rank 1 on \S+, still at work"),
    ("works-aside", 0, 0, 0, WORKING, r"waited \d s for rank 1 on \S+, still at work"),
    ("works-thread", 0, 0, 0, WORKING, r"waited \d s for rank 1 on \S+, still at work"),
    ("works-at-the-end", 0, 0, 0, WORKING, r"waited \d s for rank 1 on \S+, still at work"),
    ("hangs-thread", LOST, LOST, None, WAITING + TIMEOUT, r"no answer from rank 1 on "),
    ("never-comes", LOST, LOST, None, WAITING, r"waited [23]\.\d s in all-reduce 2 of 1000000 bytes; no answer from rank 1 "),
    ("other-operation", LOST, LOST, LOST, WAITING, r"rank 1 on \S+ \(in broadcast 2 of 400000 bytes\)|all-reduce 2 of 400000"),
    ("other-count", LOST, LOST, LOST, WAITING, r"different operations"),
    ("leave-early", LOST, LOST, LOST, WAITING, r"rank 1 on \S+ \(leaving( with an error)?\)"),
    ("user-error", USAGE, USAGE, USAGE, GRACE + MPIRUN, r"rank 1 on \S+ failed: no such option"),
    ("user-error-in-backward", USAGE, USAGE, USAGE, GRACE + MPIRUN, r"rank 1 on \S+ failed: no such option"),
    ("agreed-error", USAGE, USAGE, USAGE, MPIRUN, r"\[rank 0\] rank 1 on \S+: no such option"),
    ("kill", 137, None, None, MPIRUN, None),
    ("exit", 3, None, 3, MPIRUN, None),
]


def run(arguments, scenario, ranks, folder):
    """Exit code of mpirun, exit codes of the ranks that ended by themselves, seconds, output."""
    command = [arguments.mpirun, "--oversubscribe", "--bind-to", "none", "-np", str(ranks), arguments.driver, scenario, str(TIMEOUT)]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1",
                       CREDENCE_EXIT_CODES=folder)
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return "hangs", {}, 60.0, output
    recorded = {int(path.name): path.read_text() for path in pathlib.Path(folder).iterdir()}
    codes = {rank: int(text) for rank, text in recorded.items() if text}
    return process.returncode, codes, time.monotonic() - begin, output


def check(arguments, scenario, ranks):
    name, mpirun_code, others_code, culprit_code, most_seconds, text = scenario
    with tempfile.TemporaryDirectory() as folder:
        code, codes, seconds, output = run(arguments, name, ranks, folder)
    wrong = []
    if code != mpirun_code:
        wrong.append(f"mpirun returned {code}, expected {mpirun_code}")
    killed = []
    for rank in range(ranks):
        expected = culprit_code if rank == 1 else others_code
        if expected is None or codes.get(rank) == expected:
            continue
        # mpirun sends CONT, TERM and KILL a second apart, but each rank that ends cuts a wait short: of four, the last may
        # be killed in its last microseconds, when it has spoken and before its exit code is written.
        spoke = re.search(rf"\[rank {rank}\]|rank {rank} had finished, but", output)
        if rank not in codes and mpirun_code != 0 and ranks > 2 and (spoke or mpirun_code == 75):
            killed.append(rank)
        else:
            wrong.append(f"rank {rank} exited {codes.get(rank)}, expected {expected}")
    if len(killed) > 1:
        wrong.append(f"ranks {killed} did not end by themselves")
    if seconds > most_seconds:
        wrong.append(f"took {seconds:.1f} s, at most {most_seconds:.1f}")
    if text and not re.search(text, output):
        wrong.append(f"no line matches {text!r}")
    print(f"{'FAILED' if wrong else 'ok':6} {name} on {ranks} ranks: {seconds:.1f} s, mpirun {code}, ranks {codes}", flush=True)
    if wrong:
        print("\n".join(f"       {line}" for line in wrong))
    if wrong or arguments.verbose:
        print(output)
    return not wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--mpirun", required=True)
    parser.add_argument("--only")
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if arguments.only in (None, scenario[0])]
    results = [check(arguments, scenario, ranks) for scenario in chosen for ranks in arguments.ranks]
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
