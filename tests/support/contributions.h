// What ranks contribute to collectives in tests, and what comes out, both computed without communicating.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "credence/communication/communicator.h"

namespace credence::testing {

template <class T>
Buffer whole(std::vector<T>& values) {
  return Buffer{values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>};
}

/// Integers whose sums over ranks every element type holds exactly.
template <class T>
std::vector<T> counted(int rank, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    values[static_cast<std::size_t>(i)] = static_cast<T>((rank + 1) * (i % 1009 + 1));
  }
  return values;
}

/// What counted() sums to: (1 + 2 + ... + size) times its factor.
template <class T>
std::vector<T> counted_sum(int size, std::int64_t count) {
  std::vector<T> values = counted<T>(0, count);
  for (T& value : values) value *= static_cast<T>(size * (size + 1) / 2);
  return values;
}

/// Values whose sum depends on the order of the terms: magnitudes over 2^40.
template <class T>
std::vector<T> rough(int rank, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  auto state = static_cast<std::uint64_t>(rank + 1) << 40;
  for (T& value : values) {
    // SplitMix64 (Steele, Lea and Flood 2014).
    std::uint64_t bits = state += 0x9E3779B97F4A7C15;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
    bits ^= bits >> 31;
    const double mantissa = static_cast<double>(static_cast<std::int64_t>(bits)) * 0x1p-63;
    value = static_cast<T>(std::ldexp(mantissa, static_cast<int>(bits % 41) - 20));
  }
  return values;
}

/// Element-wise sum of ranks [first, last) in the order of the binary tree, from its definition.
template <class T>
std::vector<T> tree_sum_of_ranks(int first, int last, std::int64_t count) {
  if (last - first == 1) return rough<T>(first, count);
  const int middle = first + (last - first) / 2;
  std::vector<T> left = tree_sum_of_ranks<T>(first, middle, count);
  const std::vector<T> right = tree_sum_of_ranks<T>(middle, last, count);
  for (std::size_t i = 0; i < left.size(); ++i) left[i] = left[i] + right[i];
  return left;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace credence::testing
