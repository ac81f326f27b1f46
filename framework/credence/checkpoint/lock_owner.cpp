#include "credence/checkpoint/lock_owner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <sstream>
#include <system_error>

#include "credence/base/log.h"

namespace credence::checkpoints {
namespace {

std::string read_word(const char* file) {
  std::ifstream in(file);
  std::string word;
  in >> word;
  return word;
}

struct Process {
  char state = 'X';
  long long started = 0;
};

/// Fields 3 and 22 of /proc/PID/stat; nothing where there is no such process.
std::optional<Process> find_process(long number) {
  std::ifstream in(fmt::format("/proc/{}/stat", number));
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  const auto end_of_name = line.rfind(')');  // the name may hold spaces and parentheses
  if (end_of_name == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(end_of_name + 1));
  Process process;
  fields >> process.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> process.started;
  return fields ? std::optional(process) : std::nullopt;
}

std::string machine() {
  std::error_code error;
  const auto space = std::filesystem::read_symlink("/proc/self/ns/pid", error);
  return read_word("/proc/sys/kernel/random/boot_id") + "/" + (error ? "" : space.string());
}

}  // namespace

LockOwner this_process() {
  LockOwner owner;
  owner.host = host_name();
  owner.machine = machine();
  owner.process = getpid();
  if (const auto process = find_process(owner.process)) owner.started = process->started;
  owner.since = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now()));
  std::random_device random;
  owner.token = fmt::format("{:08x}{:08x}", random(), random());
  return owner;
}

std::string to_text(const LockOwner& owner) {
  return fmt::format("host {}\nmachine {}\nprocess {}\nstarted {}\nsince {}\ntoken {}\n", owner.host, owner.machine,
                     owner.process, owner.started, owner.since, owner.token);
}

std::optional<LockOwner> parse_owner(const std::string& text) {
  std::istringstream in(text);
  LockOwner owner;
  std::string key[6];
  in >> key[0] >> owner.host >> key[1] >> owner.machine >> key[2] >> owner.process >> key[3] >> owner.started >>
      key[4] >> owner.since >> key[5] >> owner.token;
  return in && key[0] == "host" && key[5] == "token" ? std::optional(owner) : std::nullopt;
}

Life life_of(const LockOwner& owner) {
  if (owner.machine != machine()) return Life::elsewhere;
  const auto process = find_process(owner.process);
  // A zombie runs no more; it only waits for its parent to take its exit code.
  const bool runs = process && process->started == owner.started && process->state != 'Z' && process->state != 'X';
  return runs ? Life::alive : Life::dead;
}

}  // namespace credence::checkpoints
