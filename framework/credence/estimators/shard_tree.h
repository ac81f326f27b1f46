#pragma once

#include <bit>
#include <cstddef>
#include <vector>

namespace credence {

/// The sum over [first, last) in the fixed binary tree, left in `values[first]`.
template <class T, class Add>
void sum_tree(std::vector<T>& values, std::size_t first, std::size_t last, const Add& add) {
  if (last - first < 2) return;
  const std::size_t middle = first + std::bit_ceil(last - first) / 2;
  sum_tree(values, first, middle, add);
  sum_tree(values, middle, last, add);
  add(values[first], values[middle]);
}

}  // namespace credence
