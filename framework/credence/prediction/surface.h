#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "credence/data/data_source.h"

namespace credence {

/// A regular grid over the range of two-dimensional inputs, wider by a fifth of it on every side.
struct InputGrid {
  std::vector<double> x, y;            // [side] each
  std::unique_ptr<DataSource> points;  // [side * side], row y, column x; their labels mean nothing
};

/// Reads all of `source`, whose inputs must have two elements.
InputGrid make_input_grid(const DataSource& source, std::int64_t side = 100);

}  // namespace credence
