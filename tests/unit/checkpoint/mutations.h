#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace credence::testing {

/// Damaged copies of a file, one after the other, a function of the seed: bytes flipped, set to what often breaks
/// readers, repeated, removed, or cut off.
class Mutations {
 public:
  Mutations(std::vector<char> original, std::uint64_t seed) : original_(std::move(original)), random_(seed) {}

  std::vector<char> next() {
    std::vector<char> bytes = original_;
    const std::size_t changes = 1 + below(4);
    for (std::size_t i = 0; i < changes && !bytes.empty(); ++i) change(bytes);
    return bytes;
  }

 private:
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }

  void change(std::vector<char>& bytes) {
    constexpr std::uint64_t kNumbers[] = {0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, ~0ULL, ~0ULL >> 1};
    const std::size_t at = below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const std::size_t length = std::min(1 + below(40), bytes.size() - at);
    switch (below(6)) {
      case 0:
        *place = static_cast<char>(*place ^ static_cast<char>(1U << below(8)));
        return;
      case 1:
        *place = static_cast<char>(random_());
        return;
      case 2: {
        const std::uint64_t number = kNumbers[below(std::size(kNumbers))];
        const std::size_t width = std::min<std::size_t>(std::size_t{1} << below(4), bytes.size() - at);
        for (std::size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<char>(number >> 8 * i);
        return;
      }
      case 3: {
        const std::vector<char> part(place, place + static_cast<std::ptrdiff_t>(length));
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size())), part.begin(), part.end());
        return;
      }
      case 4:
        bytes.erase(place, place + static_cast<std::ptrdiff_t>(length));
        return;
      default:
        if (below(8) == 0) bytes.resize(at);
    }
  }

  std::vector<char> original_;
  std::mt19937_64 random_;
};

}  // namespace credence::testing
