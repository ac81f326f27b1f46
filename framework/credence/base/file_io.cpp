#include "credence/base/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

namespace credence {
namespace fs = std::filesystem;
namespace {

template <class Call>
auto repeat_interrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Fills all of `bytes`; errors of one kind where the call fails, of the other where the file ends before.
void fill_from(int fd, const fs::path& file, std::span<std::byte> bytes, std::uint64_t offset, ExitCode failed,
               ExitCode ended) {
  while (!bytes.empty()) {
    const auto count =
        repeat_interrupted([&] { return ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (count < 0) fail_call(failed, file, "read", errno);
    if (count == 0) throw_error(ended, fmt::format("{}: the file ends at byte {}", file.string(), offset));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

fs::path temporary_name(const fs::path& destination) {
  static std::atomic<unsigned> count{0};
  fs::path name = destination;
  name += fmt::format(".{}-{}.tmp", getpid(), count++);
  return name;
}

fs::path directory_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

void fail_call(ExitCode kind, const fs::path& file, std::string_view call, int error) {
  throw_error(kind, fmt::format("{}: {} failed: {}", file.string(), call, std::generic_category().message(error)));
}

void Descriptor::close(const fs::path& file) {
  if (fd_ < 0) return;
  // Linux frees the number even when close() reports an error or is interrupted: never repeated.
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail_call(ExitCode::storage, file, "close", errno);
}

void Descriptor::release() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Descriptor open_file(ExitCode kind, const fs::path& file, int flags, unsigned mode) {
  const int fd = repeat_interrupted([&] { return ::open(file.c_str(), flags | O_CLOEXEC, mode); });
  if (fd < 0) fail_call(kind, file, "open", errno);
  return Descriptor(fd);
}

std::uint64_t file_length(ExitCode kind, const fs::path& file, int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail_call(kind, file, "fstat", errno);
  if (!S_ISREG(status.st_mode)) throw_error(kind, fmt::format("{}: not a regular file", file.string()));
  return static_cast<std::uint64_t>(status.st_size);
}

void write_at(int fd, const fs::path& file, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const auto written =
        repeat_interrupted([&] { return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (written < 0) fail_call(ExitCode::storage, file, "write", errno);
    if (written == 0) fail_call(ExitCode::storage, file, "write", ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void read_at(ExitCode kind, int fd, const fs::path& file, std::span<std::byte> bytes, std::uint64_t offset) {
  fill_from(fd, file, bytes, offset, kind, kind);
}

ExitCode kind_of_input_error(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO:  // a socket
      return ExitCode::unusable_data;
    default:
      return ExitCode::storage;
  }
}

Input open_input(const fs::path& file) {
  // A pipe would wait for its writer.
  const int fd = repeat_interrupted([&] { return ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) fail_call(kind_of_input_error(errno), file, "open", errno);
  Input input{Descriptor(fd), 0};
  struct stat status {};
  if (fstat(fd, &status) != 0) fail_call(ExitCode::storage, file, "fstat", errno);
  if (!S_ISREG(status.st_mode)) throw DataError(fmt::format("{}: not a regular file", file.string()));
  input.length = static_cast<std::uint64_t>(status.st_size);
  return input;
}

void read_input_at(int fd, const fs::path& file, std::span<std::byte> bytes, std::uint64_t offset) {
  fill_from(fd, file, bytes, offset, ExitCode::storage, ExitCode::unusable_data);
}

void stream(ExitCode kind, int fd, const fs::path& file, std::uint64_t begin, std::uint64_t end,
            const std::function<void(std::span<const std::byte>)>& consume) {
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(kChunkBytes, end - begin)));
  for (std::uint64_t offset = begin; offset < end;) {
    const auto bytes =
        std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), end - offset)));
    read_at(kind, fd, file, bytes, offset);
    consume(bytes);
    offset += bytes.size();
  }
}

void sync_file(int fd, const fs::path& file) {
  if (repeat_interrupted([&] { return ::fsync(fd); }) != 0) fail_call(ExitCode::storage, file, "fsync", errno);
}

void sync_directory(const fs::path& directory) {
  Descriptor descriptor = open_file(ExitCode::storage, directory, O_RDONLY | O_DIRECTORY);
  // Some file systems keep names durable by themselves and refuse fsync of a directory with EINVAL.
  if (repeat_interrupted([&] { return ::fsync(descriptor.get()); }) != 0 && errno != EINVAL) {
    fail_call(ExitCode::storage, directory, "fsync", errno);
  }
}

TemporaryFile::TemporaryFile(const fs::path& destination)
    : destination_(destination), path_(temporary_name(destination)) {
  // A process of the same number may have been killed here before.
  ::unlink(path_.c_str());
  descriptor_ = open_file(ExitCode::storage, path_, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
  exists_ = true;
}

TemporaryFile::~TemporaryFile() {
  remove_name();
}

void TemporaryFile::remove_name() {
  if (std::exchange(exists_, false)) ::unlink(path_.c_str());
}

void TemporaryFile::sync_and_close() {
  sync_file(descriptor_.get(), path_);
  descriptor_.close(path_);
}

void TemporaryFile::publish() {
  // A second name for what is replaced, so that it can come back.
  fs::path previous = temporary_name(destination_);
  const bool kept = ::link(destination_.c_str(), previous.c_str()) == 0;
  const bool existed = kept || errno != ENOENT;
  if (::rename(path_.c_str(), destination_.c_str()) != 0) {
    const int error = errno;
    if (kept) ::unlink(previous.c_str());
    fail_call(ExitCode::storage, destination_, "rename", error);
  }
  exists_ = false;
  try {
    sync_directory(directory_of(destination_));
  } catch (...) {
    // Complete and verified, but a power cut could still take the name: not published then. Where the file system has
    // no hard links and something was replaced, the new file stays, as it is all there is.
    if (kept) ::rename(previous.c_str(), destination_.c_str());
    if (!existed) ::unlink(destination_.c_str());
    throw;
  }
  if (kept) ::unlink(previous.c_str());
}

bool is_temporary_name(const std::string& name) {
  // NAME.DIGITS-DIGITS.tmp
  constexpr std::string_view suffix = ".tmp";
  if (!name.ends_with(suffix)) return false;
  const std::string stem = name.substr(0, name.size() - suffix.size());
  const auto dot = stem.rfind('.');
  if (dot == std::string::npos || dot == 0) return false;
  const std::string tail = stem.substr(dot + 1);
  const auto dash = tail.find('-');
  return dash != std::string::npos && dash > 0 && dash + 1 < tail.size() && tail.rfind('-') == dash &&
         tail.find_first_not_of("0123456789-") == std::string::npos;
}

}  // namespace credence
