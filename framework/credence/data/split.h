#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace credence {

enum class Split : std::uint8_t { train, test };

constexpr std::string_view name_of(Split split) {
  return split == Split::train ? "train" : "test";
}

/// UserError unless "train" or "test".
Split parse_split(const std::string& name);

}  // namespace credence
