#include "credence/checkpoint/verified_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "credence/base/errors.h"
#include "credence/checkpoint/inspect.h"

namespace credence::checkpoints {

OpenedFile open_for_reading(const std::filesystem::path& file) {
  // Not blocking: a named pipe must not hold the program up before its kind is known.
  OpenedFile opened{file, open_file(ExitCode::unusable_data, file, O_RDONLY | O_NONBLOCK), 0};
  opened.bytes = file_length(ExitCode::unusable_data, file, opened.descriptor.get());
  return opened;
}

UserBlock check_user_block(const OpenedFile& opened) {
  if (opened.bytes < kUserBlockBytes) {
    throw DataError(fmt::format("{}: {} bytes long, too short for a checkpoint; it was cut off or is something else",
                                opened.file.string(), opened.bytes));
  }
  UserBlockBytes bytes;
  read_at(ExitCode::unusable_data, opened.descriptor.get(), opened.file, bytes, 0);
  const UserBlock block = decode(opened.file, bytes);
  if (block.file_bytes != opened.bytes) {
    throw DataError(fmt::format("{}: damaged: {} bytes long where {} were written", opened.file.string(), opened.bytes,
                                block.file_bytes));
  }
  return block;
}

bool content_matches(const OpenedFile& opened, const UserBlock& block) {
  Hasher hasher;
  stream(ExitCode::unusable_data, opened.descriptor.get(), opened.file, kUserBlockBytes, opened.bytes,
         [&](std::span<const std::byte> bytes) { hasher.update(bytes); });
  return hasher.digest() == block.content;
}

Table inspect(const OpenedFile& opened) {
  Table table = inspect_in_child(opened.file, opened.descriptor.get());
  check_table(opened.file, table, opened.bytes);
  return table;
}

std::vector<std::string> damaged_arrays(const OpenedFile& opened, const Table& table) {
  std::vector<std::string> damaged;
  const auto compare = [&](const StoredArray& array) {
    Hasher hasher;
    stream(ExitCode::unusable_data, opened.descriptor.get(), opened.file, array.offset, array.offset + array.bytes,
           [&](std::span<const std::byte> bytes) { hasher.update(bytes); });
    if (hexadecimal(hasher.digest()) != array.digest) damaged.push_back(array.name);
  };
  compare(table.config);
  for (const StoredArray& array : table.arrays) compare(array);
  return damaged;
}

}  // namespace credence::checkpoints
