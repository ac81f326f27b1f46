#pragma once

#include <fmt/ranges.h>

#include <string>
#include <vector>

namespace credence {

/// The first few, and how many there are.
inline std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kMostNamed = 4;
  if (names.size() <= kMostNamed) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + kMostNamed, ", "),
                     names.size() - kMostNamed);
}

}  // namespace credence
