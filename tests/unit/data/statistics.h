#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace credence::test {

/// Pearson's statistic of counts that should all be alike.
inline double chi_square(const std::vector<std::int64_t>& counts) {
  double total = 0;
  for (const std::int64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  double sum = 0;
  for (const std::int64_t count : counts) sum += std::pow(static_cast<double>(count) - expected, 2) / expected;
  return sum;
}

/// What chi_square() exceeds with probability 1e-6 (4.75 standard deviations; Wilson and Hilferty 1931).
inline double chi_square_limit(std::size_t cells) {
  const double freedom = static_cast<double>(cells) - 1;
  return freedom * std::pow(1 - 2 / (9 * freedom) + 4.7534 * std::sqrt(2 / (9 * freedom)), 3);
}

}  // namespace credence::test
