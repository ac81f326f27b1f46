#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace credence {

/// Exclusive ownership of a run directory by one job, taken by rank 0: a file `lock` that names host, process and start
/// time. A lock whose owner is gone (same host: no such process; other host: not refreshed for `stale_seconds`) is
/// taken over with a warning. DirectoryInUseError names a live owner; StorageError where the directory cannot be
/// written.
class RunDirectoryLock {
 public:
  explicit RunDirectoryLock(const std::filesystem::path& directory, double stale_seconds = 120.0);
  ~RunDirectoryLock();
  RunDirectoryLock(RunDirectoryLock&&) noexcept;
  RunDirectoryLock& operator=(RunDirectoryLock&&) noexcept;

  /// Whether another job has the directory now, as it has where this one stood still for too long. Known within 15 s.
  bool lost() const;

 private:
  struct State;  // a thread refreshes the file's time
  std::unique_ptr<State> state_;
};

/// Writes a small text file (config.ini, status.json) through a temporary name, sync and rename. StorageError.
void write_text_file(const std::filesystem::path& file, const std::string& text);

}  // namespace credence
