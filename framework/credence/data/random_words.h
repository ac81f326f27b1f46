#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "credence/kernels/noise.h"

namespace credence {

/// The words of one Philox stream in order, and unbiased integers made of them: what shuffles consume.
/// Block b of stream n is counter (b low, n low, b high, n high).
class RandomWords {
 public:
  RandomWords(std::uint64_t seed, kernels::Purpose purpose, std::uint64_t stream)
      : key_(kernels::NoiseStream{.seed = seed, .purpose = purpose}.key()), stream_(stream) {}

  std::uint32_t next() {
    if (used_ == 4) {
      words_ = kernels::philox4x32_10({low(block_), low(stream_), high(block_), high(stream_)}, key_);
      ++block_;
      used_ = 0;
    }
    return words_[used_++];
  }

  /// Uniform over [0, bound), bound > 0, exactly: Lemire 2019, "Fast random integer generation in an interval", up to
  /// 2^32; above, two words (low first) cut to the bound's bits and drawn again while too large.
  std::uint64_t below(std::uint64_t bound) {
    if (bound <= kWordRange) {
      std::uint64_t product = next() * bound;
      if (low(product) < bound) {
        const std::uint64_t biased = (kWordRange - bound) % bound;
        while (low(product) < biased) product = next() * bound;
      }
      return product >> 32;
    }
    const std::uint64_t mask = ~std::uint64_t{0} >> std::countl_zero(bound - 1);
    for (;;) {
      const std::uint64_t least = next();
      const std::uint64_t value = (least | std::uint64_t{next()} << 32) & mask;
      if (value < bound) return value;
    }
  }

 private:
  static constexpr std::uint64_t kWordRange = std::uint64_t{1} << 32;
  static std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
  static std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }

  kernels::Key key_;
  std::uint64_t stream_;
  std::uint64_t block_ = 0;
  kernels::Counter words_{};
  std::size_t used_ = 4;
};

/// Fisher-Yates from the last element down: every order alike.
template <class T>
void shuffle(std::span<T> values, RandomWords& random) {
  for (std::size_t left = values.size(); left > 1; --left)
    std::swap(values[left - 1], values[static_cast<std::size_t>(random.below(left))]);
}

}  // namespace credence
