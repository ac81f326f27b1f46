#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/prediction/metrics.h"

namespace credence {

/// Weighted mean over bins of |accuracy - confidence| in bins of equally many examples, by confidence (Nixon et al.
/// 2019, sec. 3, of the top label). Equal confidences stay in the order of the examples.
double adaptive_calibration_error(const ClassPredictions& predictions, int bins);

/// Selective prediction: what is wrong among the examples that a classifier answers when it answers the surest first.
/// Examples of equal confidence are answered together, errors spread evenly over them.
struct RiskCoverage {
  std::vector<double> risk;  // [N]: fraction of errors among the k + 1 surest
  /// Mean risk over all coverages (Geifman and El-Yaniv 2017).
  double area() const;
  /// At coverage c in (0, 1]: of the ceil(c N) surest.
  double at(double coverage) const;
};
RiskCoverage risk_coverage(const ClassPredictions& predictions);

/// Calibration of every class's probability: (1 / C) sum over classes and equal-width bins of n / N * |frequency of the
/// class - mean probability| (Kull et al. 2019, eq. 3). Sums are of integers, probabilities in units of 2^-40: the same
/// in any order, for any number of ranks.
class ClasswiseCalibration {
 public:
  ClasswiseCalibration(std::int64_t classes, int bins);

  /// One example's probabilities [C].
  void add(std::span<const double> probabilities, std::int64_t label);
  /// Over all ranks' examples. Collective.
  double error(Communicator& communicator) const;

 private:
  struct Cell {
    std::int64_t count = 0, positives = 0, probability = 0;
  };
  static_assert(sizeof(Cell) == 3 * sizeof(std::int64_t));

  std::size_t bins_;
  std::vector<Cell> cells_;  // [C, bins]
  std::int64_t examples_ = 0;
};

}  // namespace credence
