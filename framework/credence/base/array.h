#pragma once

#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "credence/base/dtype.h"

namespace credence {

/// A named, contiguous, row-major array that somebody else owns, in host memory.
/// The name is a path such as "posterior/fc1.weight/mean".
struct ArrayView {
  std::string name;
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
  void* data = nullptr;

  std::int64_t count() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype); }
};

}  // namespace credence
