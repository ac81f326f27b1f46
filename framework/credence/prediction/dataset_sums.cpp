#include "credence/prediction/dataset_sums.h"

#include <cmath>

#include "credence/base/errors.h"
#include "credence/prediction/calibration.h"

namespace credence {
namespace {

std::span<const double> values_of(const torch::Tensor& host) {
  return {host.data_ptr<double>(), static_cast<std::size_t>(host.numel())};
}

torch::Tensor on_host(const torch::Tensor& tensor) {
  return tensor.to(torch::kCPU, torch::kFloat64).contiguous();
}

torch::Tensor targets_of(const Likelihood& likelihood, const BlockOutputs& block) {
  return target_tensor(likelihood, block.batch, block.outputs.scalar_type()).to(block.outputs.device());
}

void check_finite(std::span<const double> values, std::int64_t width, const char* what) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    throw NumericalError(fmt::format("{} of example {} is {}: the network's output is not finite", what,
                                     static_cast<std::int64_t>(i) / width, values[i]));
  }
}

/// How many classes are more probable; of equal ones those that come first.
double rank_of(const std::vector<double>& probabilities, std::size_t label) {
  double rank = 0.0;
  for (std::size_t c = 0; c < probabilities.size(); ++c) {
    const bool before =
        probabilities[c] > probabilities[label] || (probabilities[c] == probabilities[label] && c < label);
    rank += before ? 1.0 : 0.0;
  }
  return rank;
}

}  // namespace

PredictionSums::PredictionSums(const Likelihood& likelihood, const BlockShare& share, Content content)
    : likelihood_(likelihood),
      share_(share),
      content_(content),
      log_likelihood_(content == Content::scored ? share.rows() : 0) {
  const auto rows = share.rows();
  const bool classes = is_classification(likelihood);
  if (classes) classes_.emplace(rows, std::max<std::int64_t>(2, output_size(likelihood)));
  if (classes && content == Content::inputs_with_spread) spread_.emplace(rows);
  if (content != Content::scored) return;
  if (is_regression(likelihood)) mixtures_.emplace(likelihood, rows * target_columns(likelihood));
  targets_.resize(static_cast<std::size_t>(rows * target_columns(likelihood)));
}

void PredictionSums::add(const BlockOutputs& block) {
  if (content_ == Content::scored) add_targets(block, targets_of(likelihood_, block));
  if (classes_) {
    const torch::Tensor probabilities = on_host(class_probabilities(likelihood_, block.outputs));
    const auto values = values_of(probabilities);
    classes_->add(block.row, values);
    if (spread_) {
      const auto width = static_cast<std::size_t>(classes_->classes());
      for (std::size_t i = 0; (i + 1) * width <= values.size(); ++i) {
        spread_->add(block.row + static_cast<std::int64_t>(i), block.draw, values[(i + 1) * width - 1]);
      }
    }
  }
  if (mixtures_) mixtures_->add(block.row * target_columns(likelihood_), block.draw, block.outputs);
}

void PredictionSums::add_targets(const BlockOutputs& block, const torch::Tensor& targets) {
  const torch::Tensor log_likelihood = on_host(log_likelihoods(likelihood_, block.outputs, targets));
  std::int64_t row = block.row;
  for (const double value : values_of(log_likelihood)) log_likelihood_.add(row++, value);
  if (block.draw > 0) return;
  const torch::Tensor exact = on_host(targets);
  const std::int64_t width = exact.numel() / exact.size(0);
  const auto values = values_of(exact);
  std::copy(values.begin(), values.end(), targets_.begin() + block.row * width);
}

std::vector<double> PredictionSums::collect(Communicator& communicator, std::int64_t width,
                                            const std::function<double(std::int64_t)>& value) const {
  std::vector<double> mine(static_cast<std::size_t>(share_.rows() * width));
  for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = value(static_cast<std::int64_t>(i));
  return gather(communicator, mine, share_.first_row() * width, share_.examples * width);
}

PredictionSums::Scores PredictionSums::scores(int draws, int ece_bins, bool keep_probabilities,
                                              Communicator& communicator) const {
  ensure(content_ == Content::scored, "scores of inputs without targets");
  Scores result;
  if (classes_) {
    result.classes = class_predictions(draws, ece_bins, keep_probabilities, communicator);
    result.metrics = classification_metrics(*result.classes, ece_bins);
  } else if (mixtures_) {
    result.regression = regression_predictions(draws, communicator);
    result.metrics = regression_metrics(*result.regression);
  } else {
    const std::vector<double> log_likelihood =
        collect(communicator, 1, [&](std::int64_t row) { return log_likelihood_.result(row, draws); });
    check_finite(log_likelihood, 1, "the log likelihood");
    result.metrics.nll = -ordered_mean(log_likelihood);
  }
  result.metrics.samples = draws;
  return result;
}

ClassPredictions PredictionSums::class_predictions(int draws, int ece_bins, bool keep_probabilities,
                                                   Communicator& communicator) const {
  enum Column {
    label,
    predicted,
    confidence,
    log_likelihood,
    brier,
    entropy,
    mutual_information,
    label_rank,
    kColumns
  };
  ClasswiseCalibration classwise(classes_->classes(), ece_bins);
  std::vector<double> mine(static_cast<std::size_t>(share_.rows() * kColumns));
  ClassSums::Row sums;
  for (std::int64_t row = 0; row < share_.rows(); ++row) {
    classes_->result(row, draws, sums);
    const double target = targets_[static_cast<std::size_t>(row)];
    double* columns = mine.data() + row * kColumns;
    columns[label] = target;
    columns[predicted] = static_cast<double>(sums.predicted);
    columns[confidence] = sums.probabilities[static_cast<std::size_t>(sums.predicted)];
    columns[log_likelihood] = log_likelihood_.result(row, draws);
    for (std::size_t c = 0; c < sums.probabilities.size(); ++c) {
      const double error = sums.probabilities[c] - (static_cast<double>(c) == target ? 1.0 : 0.0);
      columns[brier] += error * error;
    }
    columns[entropy] = sums.entropy;
    columns[mutual_information] = sums.mutual_information;
    columns[label_rank] = rank_of(sums.probabilities, static_cast<std::size_t>(target));
    if (std::isfinite(sums.entropy)) classwise.add(sums.probabilities, static_cast<std::int64_t>(target));
  }
  const auto all = gather(communicator, mine, share_.first_row() * kColumns, share_.examples * kColumns);

  ClassPredictions result;
  result.classes = classes_->classes();
  const auto column = [&](Column which, auto& into) {
    into.resize(static_cast<std::size_t>(share_.examples));
    for (std::size_t i = 0; i < into.size(); ++i) {
      into[i] = static_cast<std::remove_reference_t<decltype(into[i])>>(all[i * kColumns + which]);
    }
  };
  column(label, result.labels);
  column(predicted, result.predicted);
  column(confidence, result.confidence);
  column(log_likelihood, result.log_likelihood);
  column(brier, result.brier);
  column(entropy, result.entropy);
  column(mutual_information, result.mutual_information);
  column(label_rank, result.label_rank);
  check_finite(result.entropy, 1, "the predictive entropy");
  check_finite(result.log_likelihood, 1, "the log likelihood");
  result.classwise_ece = classwise.error(communicator);
  if (keep_probabilities) {
    const std::int64_t width = result.classes;
    result.probabilities = collect(communicator, width, [&](std::int64_t i) {
      if (i % width == 0) classes_->result(i / width, draws, sums);
      return sums.probabilities[static_cast<std::size_t>(i % width)];
    });
  }
  return result;
}

RegressionPredictions PredictionSums::regression_predictions(int draws, Communicator& communicator) const {
  enum Column { target, mean, scale, aleatoric, epistemic, lower, upper, kColumns };
  const std::int64_t width = target_columns(likelihood_);
  std::vector<double> mine(static_cast<std::size_t>(share_.rows() * width * kColumns));
  for (std::int64_t i = 0; i < share_.rows() * width; ++i) {
    const Mixtures::Row row = mixtures_->row(i, draws);
    double* columns = mine.data() + i * kColumns;
    columns[target] = targets_[static_cast<std::size_t>(i)];
    columns[mean] = row.mean;
    columns[scale] = std::sqrt(row.aleatoric_variance + row.epistemic_variance);
    columns[aleatoric] = std::sqrt(row.aleatoric_variance);
    columns[epistemic] = std::sqrt(row.epistemic_variance);
    columns[lower] = row.lower;
    columns[upper] = row.upper;
  }
  const auto all =
      gather(communicator, mine, share_.first_row() * width * kColumns, share_.examples * width * kColumns);

  RegressionPredictions result;
  result.columns = width;
  const auto column = [&](Column which, std::vector<double>& into) {
    into.resize(static_cast<std::size_t>(share_.examples * width));
    for (std::size_t i = 0; i < into.size(); ++i) into[i] = all[i * kColumns + which];
  };
  column(target, result.targets);
  column(mean, result.mean);
  column(scale, result.scale);
  column(aleatoric, result.aleatoric_scale);
  column(epistemic, result.epistemic_scale);
  column(lower, result.lower);
  column(upper, result.upper);
  result.log_likelihood =
      collect(communicator, 1, [&](std::int64_t row) { return log_likelihood_.result(row, draws); });
  check_finite(result.mean, width, "the predictive mean");
  check_finite(result.log_likelihood, 1, "the log likelihood");
  check_finite(result.upper, width, "the predictive interval");
  return result;
}

std::vector<double> PredictionSums::entropies(int draws, Communicator& communicator) const {
  ClassSums::Row sums;
  auto result = collect(communicator, 1, [&](std::int64_t row) {
    classes_->result(row, draws, sums);
    return sums.entropy;
  });
  check_finite(result, 1, "the predictive entropy");
  return result;
}

std::vector<double> PredictionSums::last_probabilities(int draws, Communicator& communicator) const {
  ClassSums::Row sums;
  auto result = collect(communicator, 1, [&](std::int64_t row) {
    classes_->result(row, draws, sums);
    return sums.probabilities.back();
  });
  check_finite(result, 1, "the predictive probability");
  return result;
}

std::vector<double> PredictionSums::last_probability_stddevs(int draws, Communicator& communicator) const {
  return collect(communicator, 1, [&](std::int64_t row) { return std::sqrt(spread_->variance(row, draws)); });
}

LikelihoodTotals::LikelihoodTotals(const Likelihood& likelihood, const BlockShare& share, int draws)
    : likelihood_(likelihood), share_(share), of_block_(static_cast<std::size_t>(draws * share.blocks)) {}

void LikelihoodTotals::add(const BlockOutputs& block) {
  const torch::Tensor log_likelihood =
      on_host(expected_log_likelihoods(likelihood_, block.outputs, targets_of(likelihood_, block)));
  double& sum = of_block_[static_cast<std::size_t>(block.draw * share_.blocks + block.block)];
  for (const double value : values_of(log_likelihood)) sum += value;
}

std::vector<double> LikelihoodTotals::totals(Communicator& communicator) const {
  const auto all = gather(communicator, of_block_, 0, static_cast<std::int64_t>(of_block_.size()));
  const auto blocks = static_cast<std::size_t>(share_.blocks);
  std::vector<double> totals(all.size() / blocks);
  for (std::size_t i = 0; i < all.size(); ++i) totals[i / blocks] += all[i];
  for (std::size_t draw = 0; draw < totals.size(); ++draw) {
    if (std::isfinite(totals[draw])) continue;
    throw NumericalError(
        fmt::format("the log likelihood of the training data under draw {} is {}: the network's "
                    "output is not finite",
                    draw, totals[draw]));
  }
  return totals;
}

}  // namespace credence
