#include "credence/base/limited_child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <new>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/base/stopwatch.h"

namespace credence {
namespace {

// First byte of an answer; the last byte is always kEnd, so that a child that died while answering is noticed.
constexpr char kResult = '+';
constexpr char kFailure = '-';
constexpr char kEnd = '.';

std::size_t address_space_bytes() {
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

void limit(int what, rlim_t value) {
  rlimit now{};
  if (getrlimit(static_cast<__rlimit_resource_t>(what), &now) == 0 && now.rlim_max < value) value = now.rlim_max;
  const rlimit wanted{value, value};
  setrlimit(static_cast<__rlimit_resource_t>(what), &wanted);
}

/// Everything that keeps a child that goes wrong from being noticed by anybody else.
void confine(pid_t parent, std::size_t address_space, const ChildLimits& limits) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  // The parent's handlers print stack traces (MPI, LibTorch) or set flags that only the parent reads.
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU}) std::signal(number, SIG_DFL);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) std::signal(number, SIG_IGN);
  if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) dup2(nowhere, STDERR_FILENO);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, static_cast<rlim_t>(std::ceil(limits.seconds)));
  if (address_space > 0) limit(RLIMIT_AS, address_space + limits.memory_bytes);
}

[[noreturn]] void answer(int fd, const std::function<std::string()>& work) {
  std::string text;
  try {
    text = kResult + work();
  } catch (const std::bad_alloc&) {
    text = std::string(1, kFailure) + "needs more memory than such a file can need";
  } catch (const std::exception& error) {
    text = kFailure + std::string(error.what());
  }
  text += kEnd;
  for (std::size_t done = 0; done < text.size();) {
    const auto count = ::write(fd, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) _exit(1);
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  _exit(0);
}

enum class Reception { complete, too_late, too_long };

Reception receive(int fd, const ChildLimits& limits, std::string& text) {
  const Stopwatch watch;
  std::array<char, 65536> buffer;
  while (true) {
    const double left = limits.seconds - watch.seconds();
    pollfd waiting{fd, POLLIN, 0};
    const int ready = left > 0 ? poll(&waiting, 1, static_cast<int>(std::ceil(left * 1000))) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Reception::too_late;
    const auto count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Reception::complete;
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > limits.answer_bytes) return Reception::too_long;
  }
}

int reap(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return 0;
  }
  return status;
}

}  // namespace

std::string run_in_limited_child(const std::filesystem::path& file, const std::function<std::string()>& work,
                                 const ChildLimits& limits) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail_call(ExitCode::storage, file, "pipe for its inspection", errno);
  Descriptor reading(ends[0]);
  Descriptor writing(ends[1]);
  const pid_t parent = getpid();
  const std::size_t address_space = address_space_bytes();
  const pid_t child = fork();
  if (child < 0) fail_call(ExitCode::storage, file, "fork for its inspection", errno);
  if (child == 0) {
    confine(parent, address_space, limits);
    answer(writing.get(), work);
  }
  writing = Descriptor();
  std::string text;
  const Reception reception = receive(reading.get(), limits, text);
  if (reception != Reception::complete) kill(child, SIGKILL);
  const int status = reap(child);

  const std::string name = file.string();
  if (reception == Reception::too_late) {
    throw DataError(fmt::format("{}: its inspection took longer than {} s", name, limits.seconds));
  }
  if (reception == Reception::too_long) throw DataError(fmt::format("{}: its structure is too large", name));
  if (text.size() < 2 || text.back() != kEnd) {
    throw DataError(fmt::format("{}: its structure cannot be read safely (the inspecting process died{})", name,
                                WIFSIGNALED(status) ? fmt::format(" of signal {}", WTERMSIG(status)) : ""));
  }
  const std::string content = text.substr(1, text.size() - 2);
  if (text.front() == kResult) return content;
  throw DataError(content.find(name) == std::string::npos ? name + ": " + content : content);
}

}  // namespace credence
