#include "credence/prediction/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "credence/base/errors.h"

namespace credence {
namespace {

constexpr double kUnits = 0x1p40;  // of a probability: sums of 2^22 examples stay below 2^63

std::vector<std::size_t> order_of(const std::vector<double>& confidence, bool descending) {
  std::vector<std::size_t> order(confidence.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return descending ? confidence[a] > confidence[b] : confidence[a] < confidence[b];
  });
  return order;
}

}  // namespace

double adaptive_calibration_error(const ClassPredictions& predictions, int bins) {
  ensure(bins >= 1 && predictions.size() > 0, "the calibration of no examples, or in no bins");
  const std::vector<std::size_t> order = order_of(predictions.confidence, false);
  // Among equal confidences each counts as correct as they are on average: a bin's border may lie between them.
  std::vector<double> correct;
  correct.reserve(order.size());
  while (correct.size() < order.size()) {
    const double confidence = predictions.confidence[order[correct.size()]];
    double of_group = 0.0;
    std::size_t last = correct.size();
    for (; last < order.size() && predictions.confidence[order[last]] == confidence; ++last)
      of_group += predictions.correct(static_cast<std::int64_t>(order[last])) ? 1.0 : 0.0;
    correct.resize(last, of_group / static_cast<double>(last - correct.size()));
  }
  const auto parts = static_cast<std::size_t>(bins);
  double weighted = 0.0;
  for (std::size_t bin = 0; bin < parts; ++bin) {
    double difference = 0.0;
    for (std::size_t i = bin * order.size() / parts; i < (bin + 1) * order.size() / parts; ++i) {
      difference += correct[i] - predictions.confidence[order[i]];
    }
    weighted += std::abs(difference);
  }
  return weighted / static_cast<double>(order.size());
}

RiskCoverage risk_coverage(const ClassPredictions& predictions) {
  ensure(predictions.size() > 0, "the risk of no examples");
  const std::vector<std::size_t> order = order_of(predictions.confidence, true);
  RiskCoverage curve;
  curve.risk.reserve(order.size());
  double errors = 0.0;  // among those before the group
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    double of_group = 0.0;
    while (last < order.size() && predictions.confidence[order[last]] == predictions.confidence[order[first]]) {
      of_group += predictions.correct(static_cast<std::int64_t>(order[last])) ? 0.0 : 1.0;
      ++last;
    }
    const auto size = static_cast<double>(last - first);
    for (std::size_t i = first; i < last; ++i) {
      const double so_far = errors + of_group * static_cast<double>(i - first + 1) / size;
      curve.risk.push_back(so_far / static_cast<double>(i + 1));
    }
    errors += of_group;
    first = last;
  }
  return curve;
}

double RiskCoverage::area() const {
  return ordered_mean(risk);
}

double RiskCoverage::at(double coverage) const {
  ensure(coverage > 0.0 && coverage <= 1.0, "a coverage outside of (0, 1]");
  const double answered = std::ceil(coverage * static_cast<double>(risk.size()));
  return risk[static_cast<std::size_t>(std::max(answered, 1.0)) - 1];
}

ClasswiseCalibration::ClasswiseCalibration(std::int64_t classes, int bins)
    : bins_(static_cast<std::size_t>(bins)), cells_(static_cast<std::size_t>(classes) * bins_) {
  ensure(bins >= 1 && classes >= 1, "calibration needs classes and bins");
}

void ClasswiseCalibration::add(std::span<const double> probabilities, std::int64_t label) {
  ensure(probabilities.size() * bins_ == cells_.size(), "probabilities of another number of classes");
  ++examples_;
  for (std::size_t c = 0; c < probabilities.size(); ++c) {
    Cell& cell = cells_[c * bins_ + confidence_bin(probabilities[c], bins_)];
    ++cell.count;
    cell.positives += static_cast<std::int64_t>(c) == label ? 1 : 0;
    cell.probability += std::llround(kUnits * probabilities[c]);
  }
}

double ClasswiseCalibration::error(Communicator& communicator) const {
  std::vector<Cell> cells = cells_;
  std::int64_t examples = examples_;
  communicator
      .all_reduce({cells.data(), 3 * static_cast<std::int64_t>(cells.size()), DType::int64, Device::cpu},
                  Reduction::sum)
      .wait();
  communicator.all_reduce({&examples, 1, DType::int64, Device::cpu}, Reduction::sum).wait();
  ensure(examples > 0, "the calibration of no examples");
  double total = 0.0;
  for (const Cell& cell : cells) {
    total += std::abs(static_cast<double>(cell.positives) - static_cast<double>(cell.probability) / kUnits);
  }
  const double classes = static_cast<double>(cells.size() / bins_);
  return total / static_cast<double>(examples) / classes;
}

}  // namespace credence
