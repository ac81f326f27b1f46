#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <sstream>
#include <string>

#include "credence/communication/mpi_state.h"

namespace credence {
namespace {

struct Stat {
  char state = 0;
  std::int64_t start_ticks = 0;  // 0: no such process
};

/// What /proc/PID/stat says; null where that cannot be told now, for want of files or memory.
std::optional<Stat> read_stat(std::int64_t pid) {
  const int file = open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno == ENOENT ? std::optional(Stat()) : std::nullopt;
  std::array<char, 1024> buffer{};
  const ssize_t length = read(file, buffer.data(), buffer.size());
  const int error = errno;
  close(file);
  if (length < 0) return error == ESRCH ? std::optional(Stat()) : std::nullopt;
  const std::string text(buffer.data(), static_cast<std::size_t>(length));
  // The name in parentheses may hold anything: fields are counted from its end.
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  constexpr int kFieldsToStart = 18;  // from the parent's number to the one before the start
  Stat stat;
  std::string skipped;
  fields >> stat.state;
  for (int field = 0; field < kFieldsToStart; ++field) fields >> skipped;
  return fields >> stat.start_ticks ? std::optional(stat) : std::nullopt;
}

}  // namespace

LocalProcess LocalProcess::self() {
  const auto stat = read_stat(getpid());
  return {getpid(), stat ? stat->start_ticks : 0};
}

bool LocalProcess::runs() const {
  const auto stat = read_stat(pid);
  return !stat || (stat->start_ticks == start_ticks && stat->state != 'Z' && stat->state != 'X');
}

}  // namespace credence
