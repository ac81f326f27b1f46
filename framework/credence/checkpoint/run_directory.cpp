#include "credence/checkpoint/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/base/log.h"
#include "credence/checkpoint/lock_owner.h"
#include "credence/checkpoint/quiet_thread.h"

namespace credence {
namespace checkpoints {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";
constexpr const char* kTakeoverName = "lock.takeover";
constexpr double kTakeoverSeconds = 10.0;
constexpr double kLongestPauseSeconds = 15.0;

double seconds_of(const timespec& time) {
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// A lock file that somebody holds, as found.
struct Held {
  std::optional<LockOwner> owner;  // nothing where it cannot be understood
  ino_t inode = 0;
  double refreshed = 0.0;  // by the file server's clock
};

std::optional<Held> look_at(const fs::path& lock) {
  const Descriptor descriptor(::open(lock.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!descriptor && errno == ENOENT) return std::nullopt;
  if (!descriptor) fail_call(ExitCode::storage, lock, "open", errno);
  struct stat status {};
  if (fstat(descriptor.get(), &status) != 0) fail_call(ExitCode::storage, lock, "fstat", errno);
  std::array<char, 4096> text{};
  const auto count = ::pread(descriptor.get(), text.data(), text.size(), 0);
  if (count < 0) fail_call(ExitCode::storage, lock, "read", errno);
  return Held{parse_owner(std::string(text.data(), static_cast<std::size_t>(count))), status.st_ino,
              seconds_of(status.st_mtim)};
}

/// One attempt to own a directory. The file that becomes the lock is complete before it gets the name, so nobody ever
/// reads half a lock.
class Claim {
 public:
  Claim(const fs::path& directory, double stale_seconds)
      : lock_(directory / kLockName), takeover_(directory / kTakeoverName), own_(lock_), stale_seconds_(stale_seconds) {
    const std::string text = to_text(owner_);
    write_at(own_.fd(), own_.path(), std::as_bytes(std::span(text)), 0);
    sync_file(own_.fd(), own_.path());
    struct stat status {};
    if (fstat(own_.fd(), &status) != 0) fail_call(ExitCode::storage, own_.path(), "fstat", errno);
    inode_ = status.st_ino;
  }

  /// Returns when owned; DirectoryInUseError otherwise.
  void win() {
    while (!try_link(lock_) && !owns()) {
      const auto held = look_at(lock_);
      if (!held) continue;
      refuse_if_alive(*held);
      take_over(*held);
    }
    own_.remove_name();
  }
  /// Whether the lock is this one, as far as can be seen.
  bool owns() const { return is_own(lock_); }
  /// Whether the lock is gone or another one. A disk or server that does not answer just now says neither.
  bool is_lost() const {
    struct stat status {};
    if (::stat(lock_.c_str(), &status) == 0) return status.st_ino != inode_;
    return errno == ENOENT || errno == ENOTDIR;
  }
  void refresh() { futimens(own_.fd(), nullptr); }
  void release() {
    if (owns()) ::unlink(lock_.c_str());
  }

 private:
  bool is_own(const fs::path& name) const {
    struct stat status {};
    return ::stat(name.c_str(), &status) == 0 && status.st_ino == inode_;
  }
  bool try_link(const fs::path& name) const {
    if (::link(own_.path().c_str(), name.c_str()) == 0) return true;
    const int error = errno;
    // Over NFS the answer to a link that was made can get lost; the repeated request then finds the name taken.
    if (is_own(name)) return true;
    if (error == EEXIST) return false;
    fail_call(ExitCode::storage, name, "link", error);
  }
  /// Now, by the clock that stamps the lock files: clocks of hosts may differ.
  double now() const {
    futimens(own_.fd(), nullptr);
    struct stat status {};
    if (fstat(own_.fd(), &status) != 0) fail_call(ExitCode::storage, own_.path(), "fstat", errno);
    return seconds_of(status.st_mtim);
  }
  void refuse_if_alive(const Held& held) const;
  void take_over(const Held& held);

  LockOwner owner_ = this_process();
  fs::path lock_;
  fs::path takeover_;
  TemporaryFile own_;
  double stale_seconds_;
  ino_t inode_ = 0;
};

void Claim::refuse_if_alive(const Held& held) const {
  const Life life = held.owner ? life_of(*held.owner) : Life::elsewhere;
  const double age = now() - held.refreshed;
  if (life == Life::dead || (life == Life::elsewhere && age > stale_seconds_)) return;
  const std::string directory = lock_.parent_path().string();
  if (!held.owner) {
    throw DirectoryInUseError(
        fmt::format("{} is in use: its lock cannot be read and is only {:.0f} s old", directory, age));
  }
  throw DirectoryInUseError(fmt::format("{} is in use by process {} on {} since {} (last sign of life {:.0f} s ago)",
                                        directory, held.owner->process, held.owner->host, held.owner->since,
                                        std::max(age, 0.0)));
}

void Claim::take_over(const Held& held) {
  // Only who holds this second lock may replace the first, and looks again while holding it: of two contenders that saw
  // the same dead owner, the later one finds the earlier one's lock.
  if (!try_link(takeover_)) {
    const auto other = look_at(takeover_);
    if (other && now() - other->refreshed > kTakeoverSeconds) ::unlink(takeover_.c_str());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return;
  }
  const auto again = look_at(lock_);
  if (again && again->inode == held.inode && again->owner == held.owner) {
    log_warning("taking over {}, whose owner{} is gone", lock_.parent_path().string(),
                held.owner ? fmt::format(" (process {} on {})", held.owner->process, held.owner->host) : "");
    if (::rename(takeover_.c_str(), lock_.c_str()) != 0) {
      const int error = errno;
      ::unlink(takeover_.c_str());
      fail_call(ExitCode::storage, lock_, "rename", error);
    }
    return;
  }
  ::unlink(takeover_.c_str());
}

/// Removes what a killed writer left. Only the owner may: nobody else writes here then.
void remove_leftovers(const fs::path& directory) {
  std::error_code error;
  for (fs::directory_iterator entries(directory, error); !error && entries != fs::directory_iterator();
       entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    // Those of the lock itself belong to contenders that are about to be refused.
    if (!is_temporary_name(name) || name.starts_with(kLockName)) continue;
    std::error_code ignored;
    fs::remove(entries->path(), ignored);
  }
}

}  // namespace
}  // namespace checkpoints

struct RunDirectoryLock::State {
  State(const std::filesystem::path& directory, double stale_seconds) : claim(directory, stale_seconds) {
    claim.win();
    checkpoints::remove_leftovers(directory);
    const double pause = std::min(stale_seconds / 4, checkpoints::kLongestPauseSeconds);
    heart = checkpoints::start_quiet_thread([this, pause] { beat(pause); });
  }
  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    heart.join();
    claim.release();
  }

  void beat(double pause_seconds) {
    std::unique_lock lock(mutex);
    const auto pause = std::chrono::duration<double>(pause_seconds);
    while (!wake.wait_for(lock, pause, [&] { return stopping; })) {
      claim.refresh();
      if (claim.is_lost()) lost = true;
    }
  }

  checkpoints::Claim claim;
  std::atomic<bool> lost = false;
  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  std::thread heart;
};

RunDirectoryLock::RunDirectoryLock(const std::filesystem::path& directory, double stale_seconds)
    : state_(std::make_unique<State>(directory, stale_seconds)) {}
RunDirectoryLock::~RunDirectoryLock() = default;
RunDirectoryLock::RunDirectoryLock(RunDirectoryLock&&) noexcept = default;
RunDirectoryLock& RunDirectoryLock::operator=(RunDirectoryLock&&) noexcept = default;

bool RunDirectoryLock::lost() const {
  return state_->lost;
}

void write_text_file(const std::filesystem::path& file, const std::string& text) {
  TemporaryFile temporary(file);
  write_at(temporary.fd(), temporary.path(), std::as_bytes(std::span(text)), 0);
  temporary.sync_and_close();
  temporary.publish();
}

}  // namespace credence
