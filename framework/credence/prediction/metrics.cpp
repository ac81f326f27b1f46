#include "credence/prediction/metrics.h"

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/prediction/calibration.h"

namespace credence {
namespace {

constexpr std::size_t kSumBlock = 1024;

/// Empty where it is infinite.
std::optional<double> root_mean_square(std::span<const double> values) {
  std::vector<double> squares(values.begin(), values.end());
  for (double& value : squares) value *= value;
  const double result = std::sqrt(ordered_mean(squares));
  return std::isfinite(result) ? std::optional(result) : std::nullopt;
}

}  // namespace

std::size_t confidence_bin(double confidence, std::size_t bins) {
  const double upper = std::ceil(confidence * static_cast<double>(bins));
  return static_cast<std::size_t>(std::clamp(upper, 1.0, static_cast<double>(bins))) - 1;
}

std::vector<std::pair<std::string, double>> Metrics::defined() const {
  std::vector<std::pair<std::string, double>> result;
  const auto add = [&](const char* name, const std::optional<double>& value) {
    if (value) result.emplace_back(name, *value);
  };
  add("accuracy", accuracy);
  add("nll", nll);
  add("top5_accuracy", top5_accuracy);
  add("ece", ece);
  add("adaptive_ece", adaptive_ece);
  add("classwise_ece", classwise_ece);
  add("aurc", aurc);
  add("brier", brier);
  add("entropy", entropy);
  add("mutual_information", mutual_information);
  add("ood_auroc", ood_auroc);
  add("rmse", rmse);
  add("scale", scale);
  add("aleatoric_scale", aleatoric_scale);
  add("epistemic_scale", epistemic_scale);
  add("coverage_90", coverage_90);
  add("interval_width_90", interval_width_90);
  add("elbo_per_example", elbo_per_example);
  add("importance_bound", importance_bound);
  return result;
}

bool ClassPredictions::correct(std::int64_t example) const {
  const auto i = static_cast<std::size_t>(example);
  return predicted[i] == labels[i];
}

double entropy_nats(std::span<const double> probabilities) {
  double sum = 0.0;
  for (const double p : probabilities) {
    if (p != 0.0) sum -= p * std::log(p);
  }
  return sum;
}

double ordered_mean(std::span<const double> values) {
  ensure(!values.empty(), "the mean of nothing");
  double total = 0.0;
  for (std::size_t begin = 0; begin < values.size(); begin += kSumBlock) {
    double sum = 0.0;
    for (const double value : values.subspan(begin, std::min(kSumBlock, values.size() - begin))) sum += value;
    total += sum;
  }
  return total / static_cast<double>(values.size());
}

Reliability reliability(const ClassPredictions& predictions, int bins) {
  ensure(bins >= 1, "no bins for the calibration error");
  const auto size = static_cast<std::size_t>(bins);
  Reliability result{std::vector<std::int64_t>(size), std::vector<double>(size), std::vector<double>(size)};
  for (std::int64_t i = 0; i < predictions.size(); ++i) {
    const double confidence = predictions.confidence[static_cast<std::size_t>(i)];
    const std::size_t bin = confidence_bin(confidence, size);
    ++result.count[bin];
    result.confidence[bin] += confidence;
    if (predictions.correct(i)) result.accuracy[bin] += 1.0;
  }
  for (std::size_t bin = 0; bin < size; ++bin) {
    if (result.count[bin] == 0) continue;
    result.confidence[bin] /= static_cast<double>(result.count[bin]);
    result.accuracy[bin] /= static_cast<double>(result.count[bin]);
  }
  return result;
}

double expected_calibration_error(const Reliability& bins) {
  double weighted = 0.0;
  std::int64_t total = 0;
  for (std::size_t bin = 0; bin < bins.count.size(); ++bin) {
    weighted += static_cast<double>(bins.count[bin]) * std::abs(bins.accuracy[bin] - bins.confidence[bin]);
    total += bins.count[bin];
  }
  ensure(total > 0, "the calibration of no examples");
  return weighted / static_cast<double>(total);
}

double area_under_roc(std::span<const double> negatives, std::span<const double> positives) {
  ensure(!negatives.empty() && !positives.empty(), "the area under a curve needs scores of both kinds");
  std::vector<double> below(negatives.begin(), negatives.end());
  std::vector<double> scores(positives.begin(), positives.end());
  std::sort(below.begin(), below.end());
  std::sort(scores.begin(), scores.end());
  // Counted in halves, so that the sum is an integer and exact.
  std::int64_t half_wins = 0;
  std::size_t less = 0;
  std::size_t not_greater = 0;
  for (const double score : scores) {
    while (less < below.size() && below[less] < score) ++less;
    while (not_greater < below.size() && below[not_greater] <= score) ++not_greater;
    half_wins += static_cast<std::int64_t>(less + not_greater);
  }
  return static_cast<double>(half_wins) /
         (2.0 * static_cast<double>(negatives.size()) * static_cast<double>(positives.size()));
}

Metrics classification_metrics(const ClassPredictions& predictions, int bins) {
  std::int64_t correct = 0;
  for (std::int64_t i = 0; i < predictions.size(); ++i) correct += predictions.correct(i) ? 1 : 0;
  Metrics metrics;
  metrics.accuracy = static_cast<double>(correct) / static_cast<double>(predictions.size());
  metrics.nll = -ordered_mean(predictions.log_likelihood);
  metrics.ece = expected_calibration_error(reliability(predictions, bins));
  metrics.adaptive_ece = adaptive_calibration_error(predictions, bins);
  metrics.classwise_ece = predictions.classwise_ece;
  metrics.aurc = risk_coverage(predictions).area();
  if (predictions.classes > 5 && !predictions.label_rank.empty()) {
    const auto among_five = std::count_if(predictions.label_rank.begin(), predictions.label_rank.end(),
                                          [](std::int64_t rank) { return rank < 5; });
    metrics.top5_accuracy = static_cast<double>(among_five) / static_cast<double>(predictions.size());
  }
  metrics.brier = ordered_mean(predictions.brier);
  metrics.entropy = ordered_mean(predictions.entropy);
  metrics.mutual_information = ordered_mean(predictions.mutual_information);
  return metrics;
}

Metrics regression_metrics(const RegressionPredictions& predictions) {
  std::vector<double> errors(predictions.mean.size());
  std::vector<double> covered(predictions.mean.size());
  std::vector<double> widths(predictions.mean.size());
  for (std::size_t i = 0; i < predictions.mean.size(); ++i) {
    const double target = predictions.targets[i];
    errors[i] = predictions.mean[i] - target;
    covered[i] = predictions.lower[i] <= target && target <= predictions.upper[i] ? 1.0 : 0.0;
    widths[i] = predictions.upper[i] - predictions.lower[i];
  }
  Metrics metrics;
  metrics.nll = -ordered_mean(predictions.log_likelihood);
  metrics.rmse = root_mean_square(errors);
  metrics.scale = root_mean_square(predictions.scale);
  metrics.aleatoric_scale = root_mean_square(predictions.aleatoric_scale);
  metrics.epistemic_scale = root_mean_square(predictions.epistemic_scale);
  metrics.coverage_90 = ordered_mean(covered);
  metrics.interval_width_90 = ordered_mean(widths);
  return metrics;
}

}  // namespace credence
