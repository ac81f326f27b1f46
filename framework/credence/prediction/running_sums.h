#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// What is kept of draws that are streamed: memory grows with rows and classes, never with draws. Draws are added in
/// order; float64.
namespace credence {

/// log of the mean of exp(x) over draws, one per row, without overflow (streaming log-sum-exp).
class LogMeanExp {
 public:
  explicit LogMeanExp(std::int64_t rows);

  void add(std::int64_t row, double value);
  /// Exactly the value itself for one draw.
  double result(std::int64_t row, int draws) const;

 private:
  std::vector<double> largest_;  // of the values so far
  std::vector<double> sum_;      // of exp(value - largest)
};

/// Mean and variance over draws of independent quantities (Welford 1962).
class RunningMoments {
 public:
  explicit RunningMoments(std::int64_t quantities);

  /// `draw` counts from 0.
  void add(std::int64_t quantity, int draw, double value);
  double mean(std::int64_t quantity) const { return mean_[static_cast<std::size_t>(quantity)]; }
  /// Divisor `draws`: 0 for one draw.
  double variance(std::int64_t quantity, int draws) const;

 private:
  std::vector<double> mean_;
  std::vector<double> squares_;  // sum of squared deviations from the mean
};

/// Class probabilities and their entropies summed over draws.
class ClassSums {
 public:
  ClassSums(std::int64_t rows, std::int64_t classes);

  /// Probabilities of one draw, [b, C], for the rows from `row` on.
  void add(std::int64_t row, std::span<const double> probabilities);

  struct Row {
    std::vector<double> probabilities;  // [C], mean over draws
    double entropy = 0.0;               // nats, of these probabilities
    double mutual_information = 0.0;    // that minus the draws' mean entropy; at least 0
    std::int64_t predicted = 0;
  };
  void result(std::int64_t row, int draws, Row& into) const;
  std::int64_t classes() const { return classes_; }

 private:
  std::int64_t classes_;
  std::vector<double> probabilities_;  // [rows, C]
  std::vector<double> entropies_;      // [rows]
};

}  // namespace credence
