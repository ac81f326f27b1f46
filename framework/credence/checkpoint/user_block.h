#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "credence/base/digest.h"

namespace credence::checkpoints {

inline constexpr std::size_t kUserBlockBytes = 512;
inline constexpr std::uint32_t kFormatVersion = 1;

/// The first 512 bytes of a checkpoint; FORMAT.md has the table.
struct UserBlock {
  std::uint64_t file_bytes = 0;
  Digest content{};  // of bytes 512 to the end
};

using UserBlockBytes = std::array<std::byte, kUserBlockBytes>;

UserBlockBytes encode(const UserBlock& block);

/// DataError naming the file: not a checkpoint, damaged, or of a newer format.
UserBlock decode(const std::filesystem::path& file, const UserBlockBytes& bytes);

}  // namespace credence::checkpoints
