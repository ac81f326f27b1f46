#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "credence/base/file_io.h"
#include "credence/checkpoint/table.h"
#include "credence/checkpoint/user_block.h"

namespace credence::checkpoints {

/// A checkpoint file that is open for reading, with its length.
struct OpenedFile {
  std::filesystem::path file;
  Descriptor descriptor;
  std::uint64_t bytes = 0;
};

OpenedFile open_for_reading(const std::filesystem::path& file);
/// Compares the first bytes with their digest and the length with what they say. DataError.
UserBlock check_user_block(const OpenedFile& opened);
bool content_matches(const OpenedFile& opened, const UserBlock& block);
/// The table by way of a limited child, checked.
Table inspect(const OpenedFile& opened);
/// Names of arrays (and of the configuration) whose bytes do not match their digest.
std::vector<std::string> damaged_arrays(const OpenedFile& opened, const Table& table);

}  // namespace credence::checkpoints
