#pragma once

#include <cstdint>
#include <memory>

#include "credence/data/data_source.h"
#include "credence/data/split.h"

namespace credence {

/// Two interleaving half circles with Gaussian noise, by scikit-learn's make_moons formula: class 0 is the upper moon
/// (cos t, sin t), class 1 the lower one (1 - cos t, 1/2 - sin t), t evenly spaced over [0, pi], ends included.
struct Moons {
  std::uint64_t seed = 0;  // below 2^56
  std::int64_t points = 1000;
  double noise = 0.2;  // standard deviation
};

/// Standardised over all points (mean 0, variance 1 with divisor N), shuffled, half for each split.
/// UserError for fewer than four points or a seed too large.
std::unique_ptr<DataSource> make_moons(const Moons& moons, Split split);

}  // namespace credence
