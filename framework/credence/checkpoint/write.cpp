#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/checkpoint/checkpoint.h"
#include "credence/checkpoint/image.h"
#include "credence/checkpoint/user_block.h"

namespace credence {
namespace checkpoints {
namespace {

/// Asks for all the space at once, so that a full disk is known before anything is written.
void reserve(const TemporaryFile& file, std::uint64_t bytes) {
  int result = 0;
  do {
    result = fallocate(file.fd(), 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0 || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return;
  fail_call(ExitCode::storage, file.path(), fmt::format("reserving {} bytes (fallocate)", bytes), errno);
}

/// Writes the image and then, over the zeros at the start, the user block: a file cut short has no valid one.
UserBlock write_image(const TemporaryFile& file, const CheckpointImage& image) {
  reserve(file, image.bytes());
  Hasher hasher;
  image.for_each_piece([&](std::span<const std::byte> bytes, std::uint64_t offset) {
    hasher.update(bytes);
    write_at(file.fd(), file.path(), bytes, offset);
  });
  const UserBlock block{image.bytes(), hasher.digest()};
  write_at(file.fd(), file.path(), encode(block), 0);
  return block;
}

/// Reads back what reached the disk and compares it with the digest taken from memory. HDF5 has no part in it: a file
/// that fails under it (HDF5 1.10 keeps a freed file among the open ones when closing fails) would crash the program at
/// exit.
void verify(const std::filesystem::path& file, const CheckpointImage& image, const UserBlock& written) {
  const auto refuse = [&](const std::string& why) {
    throw StorageError(fmt::format("{}: what was written does not read back: {}", file.string(), why));
  };
  const Descriptor descriptor = open_file(ExitCode::storage, file, O_RDONLY | O_NOFOLLOW);
  // After fsync the pages can be dropped, so that the disk is read and not the memory that was just filled.
  posix_fadvise(descriptor.get(), 0, 0, POSIX_FADV_DONTNEED);
  if (file_length(ExitCode::storage, file, descriptor.get()) != image.bytes()) refuse("it has another length");
  UserBlockBytes first;
  read_at(ExitCode::storage, descriptor.get(), file, first, 0);
  if (first != encode(written)) refuse("its first bytes differ");
  Hasher content;
  stream(ExitCode::storage, descriptor.get(), file, kUserBlockBytes, image.bytes(),
         [&](std::span<const std::byte> bytes) { content.update(bytes); });
  if (content.digest() != written.content) refuse("its digest differs");
}

}  // namespace
}  // namespace checkpoints

void write_checkpoint(const std::filesystem::path& file, const CheckpointContents& contents,
                      const std::function<void()>& check) {
  using namespace checkpoints;
  const CheckpointImage image(file, contents);
  TemporaryFile temporary(file);
  const UserBlock block = write_image(temporary, image);
  temporary.sync_and_close();
  verify(temporary.path(), image, block);
  if (check) check();
  temporary.publish();
}

}  // namespace credence
