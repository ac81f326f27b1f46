#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "credence/communication/mpi_state.h"

namespace credence {
namespace {

/// State letter and start of a process from /proc/PID/stat; false where there is no such process.
bool read_stat(std::int64_t pid, char& state, std::int64_t& start_ticks) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return false;
  // The name in parentheses may hold anything: fields are counted from its end.
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  constexpr int kFieldsToStart = 18;  // from the parent's number to the one before the start
  std::string skipped;
  fields >> state;
  for (int field = 0; field < kFieldsToStart; ++field) fields >> skipped;
  return static_cast<bool>(fields >> start_ticks);
}

}  // namespace

LocalProcess LocalProcess::self() {
  LocalProcess process{getpid(), 0};
  char state = 0;
  read_stat(process.pid, state, process.start_ticks);
  return process;
}

bool LocalProcess::runs() const {
  char state = 0;
  std::int64_t start = 0;
  return read_stat(pid, state, start) && start == start_ticks && state != 'Z' && state != 'X';
}

}  // namespace credence
