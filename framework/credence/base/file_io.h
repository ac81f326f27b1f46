#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "credence/base/errors.h"

namespace credence {

/// Bytes that are hashed, written or read at a time: small enough to stay in a second-level cache.
inline constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

/// Throws an error of the kind given: "FILE: CALL failed: text of errno".
[[noreturn]] void fail_call(ExitCode kind, const std::filesystem::path& file, std::string_view call, int error);

/// Owns a file descriptor. close() reports what the kernel says at close; the destructor only releases.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { release(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      release();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close(const std::filesystem::path& file);  // StorageError

 private:
  void release() noexcept;
  int fd_ = -1;
};

/// open(2), repeated when interrupted. Errors of the kind given.
Descriptor open_file(ExitCode kind, const std::filesystem::path& file, int flags, unsigned mode = 0666);
std::uint64_t file_length(ExitCode kind, const std::filesystem::path& file, int fd);

/// The kind of error that a failed open or stat of a dataset's file is: unusable_data where the name leads to no file,
/// else storage (no permission, no descriptor left, a disk or server that does not answer), which says nothing about
/// the file.
ExitCode kind_of_input_error(int error);
/// A regular file of a dataset, opened for reading; errors by kind_of_input_error().
struct Input {
  Descriptor descriptor;
  std::uint64_t length;
};
Input open_input(const std::filesystem::path& file);
/// Fills all of `bytes`. DataError where the file ends before, StorageError where it cannot be read.
void read_input_at(int fd, const std::filesystem::path& file, std::span<std::byte> bytes, std::uint64_t offset);

/// All of `bytes`, whatever pieces the kernel takes. StorageError.
void write_at(int fd, const std::filesystem::path& file, std::span<const std::byte> bytes, std::uint64_t offset);
/// Fills all of `bytes`; a file that ends before is an error of the kind given.
void read_at(ExitCode kind, int fd, const std::filesystem::path& file, std::span<std::byte> bytes,
             std::uint64_t offset);
/// Calls `consume` with [begin, end) of the file in order, in pieces of at most kChunkBytes.
void stream(ExitCode kind, int fd, const std::filesystem::path& file, std::uint64_t begin, std::uint64_t end,
            const std::function<void(std::span<const std::byte>)>& consume);

/// fsync of a file, or of a directory so that the names in it survive a power cut. StorageError.
void sync_file(int fd, const std::filesystem::path& file);
void sync_directory(const std::filesystem::path& directory);

/// A file under a temporary name beside its destination: NAME.PID-COUNT.tmp. Gone with this object unless published.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& destination);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int fd() const { return descriptor_.get(); }
  const std::filesystem::path& path() const { return path_; }
  /// Takes the temporary name away, keeps the file open.
  void remove_name();
  /// fsync, then a checked close: after this only the name is missing.
  void sync_and_close();
  /// Renames to the destination and syncs the directory. On an error the destination is what it was before.
  void publish();

 private:
  std::filesystem::path destination_;
  std::filesystem::path path_;
  Descriptor descriptor_;
  bool exists_ = false;
};

/// Whether the name is one that TemporaryFile gives.
bool is_temporary_name(const std::string& name);

}  // namespace credence
