#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "credence/checkpoint/checkpoint.h"

namespace credence::checkpoints {

/// The step of a name that checkpoint_name() gives; nothing for any other name.
std::optional<std::int64_t> step_of_name(const std::string& name);

struct Found {
  std::int64_t step = 0;
  std::filesystem::path file;
};
/// All checkpoints of a directory by name, newest first; none where the directory does not exist. StorageError where it
/// cannot be listed.
std::vector<Found> list_checkpoints(const std::filesystem::path& directory);

/// Whether the file matches its digests. Does not open it with HDF5.
bool is_intact(const std::filesystem::path& file);

}  // namespace credence::checkpoints
