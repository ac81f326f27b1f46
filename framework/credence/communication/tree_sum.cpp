#include "credence/communication/tree_sum.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace credence {

namespace {

struct Sum {
  template <class T>
  static T combine(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      using Unsigned = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
    } else {
      return a + b;
    }
  }
};

struct Max {
  template <class T>
  static T combine(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a) return a;
    }
    return a >= b ? a : b;  // false for a NaN in b, which then wins
  }
};

// Every output depends on the same element of its inputs only, so result may be one of them.
template <class Operator, class T>
void reduce_two(const T* a, const T* b, T* result, std::int64_t count) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) result[i] = Operator::combine(a[i], b[i]);
}

template <class Operator, class T>
void reduce_four(const std::array<const T*, 4>& in, T* result, std::int64_t count) {
  const auto [a, b, c, d] = in;
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    result[i] = Operator::combine(Operator::combine(a[i], b[i]), Operator::combine(c[i], d[i]));
  }
}

template <class Operator, class T>
void reduce(std::span<void* const> contributions, T* result, std::int64_t count) {
  const std::size_t ranks = contributions.size();
  const auto at = [&](std::size_t rank, std::int64_t first) { return static_cast<T*>(contributions[rank]) + first; };
  if (ranks == 1) {
    if (contributions[0] != result) std::copy_n(at(0, 0), count, result);
  } else if (ranks == 2) {
    reduce_two<Operator>(at(0, 0), at(1, 0), result, count);
  } else if (ranks == 4) {
    reduce_four<Operator, T>({at(0, 0), at(1, 0), at(2, 0), at(3, 0)}, result, count);
  } else {
    // Blocks that stay in the first-level cache over all levels of the tree.
    constexpr std::int64_t kBlock = 1024;
    for (std::int64_t first = 0; first < count; first += kBlock) {
      const std::int64_t block = std::min(kBlock, count - first);
      std::size_t step = 1;
      for (; step < ranks / 2; step *= 2) {
        for (std::size_t rank = 0; rank < ranks; rank += 2 * step) {
          reduce_two<Operator>(at(rank, first), at(rank + step, first), at(rank, first), block);
        }
      }
      reduce_two<Operator>(at(0, first), at(step, first), result + first, block);
    }
  }
}

template <class T>
void reduce(std::span<void* const> contributions, void* result, std::int64_t count, Reduction reduction) {
  if (reduction == Reduction::sum) {
    reduce<Sum>(contributions, static_cast<T*>(result), count);
  } else {
    reduce<Max>(contributions, static_cast<T*>(result), count);
  }
}

}  // namespace

void reduce_in_tree_order(std::span<void* const> contributions, void* result, std::int64_t count, DType dtype,
                          Reduction reduction) {
  switch (dtype) {
    case DType::float32:
      return reduce<float>(contributions, result, count, reduction);
    case DType::float64:
      return reduce<double>(contributions, result, count, reduction);
    case DType::int64:
      return reduce<std::int64_t>(contributions, result, count, reduction);
    case DType::uint8:
      break;
  }
  throw InternalError("a reduction of bytes");
}

}  // namespace credence
