#include "credence/prediction/running_sums.h"

#include <algorithm>
#include <cmath>

#include "credence/prediction/metrics.h"

namespace credence {

LogMeanExp::LogMeanExp(std::int64_t rows)
    : largest_(static_cast<std::size_t>(rows), -std::numeric_limits<double>::infinity()),
      sum_(static_cast<std::size_t>(rows)) {}

void LogMeanExp::add(std::int64_t row, double value) {
  double& largest = largest_[static_cast<std::size_t>(row)];
  double& sum = sum_[static_cast<std::size_t>(row)];
  if (value > largest) {
    sum = sum * std::exp(largest - value) + 1.0;
    largest = value;
  } else if (value != -std::numeric_limits<double>::infinity()) {
    sum += std::exp(value - largest);
  }
}

double LogMeanExp::result(std::int64_t row, int draws) const {
  return largest_[static_cast<std::size_t>(row)] + std::log(sum_[static_cast<std::size_t>(row)] / draws);
}

RunningMoments::RunningMoments(std::int64_t quantities)
    : mean_(static_cast<std::size_t>(quantities)), squares_(static_cast<std::size_t>(quantities)) {}

void RunningMoments::add(std::int64_t quantity, int draw, double value) {
  double& mean = mean_[static_cast<std::size_t>(quantity)];
  const double deviation = value - mean;
  mean += deviation / (draw + 1);
  squares_[static_cast<std::size_t>(quantity)] += deviation * (value - mean);
}

double RunningMoments::variance(std::int64_t quantity, int draws) const {
  return squares_[static_cast<std::size_t>(quantity)] / draws;
}

ClassSums::ClassSums(std::int64_t rows, std::int64_t classes)
    : classes_(classes),
      probabilities_(static_cast<std::size_t>(rows * classes)),
      entropies_(static_cast<std::size_t>(rows)) {}

void ClassSums::add(std::int64_t row, std::span<const double> probabilities) {
  const auto classes = static_cast<std::size_t>(classes_);
  double* sums = probabilities_.data() + row * classes_;
  double* entropy = entropies_.data() + row;
  for (std::size_t begin = 0; begin < probabilities.size(); begin += classes, sums += classes, ++entropy) {
    const auto draw = probabilities.subspan(begin, classes);
    for (std::size_t c = 0; c < classes; ++c) sums[c] += draw[c];
    *entropy += entropy_nats(draw);
  }
}

void ClassSums::result(std::int64_t row, int draws, Row& into) const {
  const double* sums = probabilities_.data() + row * classes_;
  into.probabilities.resize(static_cast<std::size_t>(classes_));
  for (std::size_t c = 0; c < into.probabilities.size(); ++c) into.probabilities[c] = sums[c] / draws;
  into.entropy = entropy_nats(into.probabilities);
  // Positive by Jensen's inequality; the difference of two nearly equal numbers may round below.
  into.mutual_information = std::max(0.0, into.entropy - entropies_[static_cast<std::size_t>(row)] / draws);
  into.predicted = std::max_element(into.probabilities.begin(), into.probabilities.end()) - into.probabilities.begin();
}

}  // namespace credence
