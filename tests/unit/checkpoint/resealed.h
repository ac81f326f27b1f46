#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "credence/checkpoint/user_block.h"

namespace credence::testing {

/// The bytes with a user block that fits them: what an attacker would write.
inline std::vector<char> resealed(std::vector<char> bytes) {
  const auto content = std::as_bytes(std::span(bytes)).subspan(checkpoints::kUserBlockBytes);
  const auto block = checkpoints::encode({bytes.size(), digest_of(content)});
  std::memcpy(bytes.data(), block.data(), block.size());
  return bytes;
}

}  // namespace credence::testing
