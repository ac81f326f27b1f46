#include "credence/prediction/predict.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <optional>

#include "credence/base/errors.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/mixtures.h"
#include "credence/prediction/pass.h"
#include "credence/prediction/running_sums.h"

namespace credence {
namespace {

/// Running sums over draws of one input: this rank's rows.
class InputSums {
 public:
  InputSums(const Likelihood& likelihood, const BlockShare& share)
      : likelihood_(likelihood),
        share_(share),
        width_(is_classification(likelihood) ? std::max<std::int64_t>(2, output_size(likelihood))
                                             : target_columns(likelihood)) {
    const std::int64_t values = share.rows() * width_;
    if (is_classification(likelihood)) classes_.emplace(share.rows(), width_);
    if (is_regression(likelihood)) {
      mixtures_.emplace(likelihood, values);
    } else {
      probabilities_.emplace(values);
    }
  }

  void add(const BlockOutputs& block) {
    if (mixtures_) return mixtures_->add(block.row * width_, block.draw, block.outputs);
    const torch::Tensor exact =
        classes_ ? class_probabilities(likelihood_, block.outputs) : flag_probabilities(likelihood_, block.outputs);
    const torch::Tensor host = exact.to(torch::kCPU, torch::kFloat64).contiguous();
    const std::span<const double> values(host.data_ptr<double>(), static_cast<std::size_t>(host.numel()));
    if (classes_) classes_->add(block.row, values);
    std::int64_t index = block.row * width_;
    for (const double value : values) probabilities_->add(index++, block.draw, value);
  }

  /// Of all ranks' rows. Collective.
  InputPredictions result(int draws, Communicator& communicator) const {
    InputPredictions result;
    result.examples = share_.examples;
    result.samples = draws;
    if (classes_) {
      class_results(result, communicator);
    } else if (mixtures_) {
      regression_results(result, communicator);
    } else {
      flag_results(result, communicator);
    }
    return result;
  }

 private:
  using Value = std::function<double(std::int64_t index)>;
  /// `per_row` values of every row, on every rank.
  std::vector<double> collect(std::int64_t per_row, Communicator& communicator, const Value& value) const {
    std::vector<double> mine(static_cast<std::size_t>(share_.rows() * per_row));
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = value(static_cast<std::int64_t>(i));
    auto all = gather(communicator, mine, share_.first_row() * per_row, share_.examples * per_row);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (std::isfinite(all[i]) || std::isinf(all[i])) continue;
      throw NumericalError(fmt::format("the prediction for example {} is {}: the network's output is not finite",
                                       static_cast<std::int64_t>(i) / per_row, all[i]));
    }
    return all;
  }

  void class_results(InputPredictions& result, Communicator& communicator) const {
    result.classes = width_;
    std::vector<ClassSums::Row> rows(static_cast<std::size_t>(share_.rows()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      classes_->result(static_cast<std::int64_t>(i), result.samples, rows[i]);
    }
    const auto row = [&](std::int64_t i) -> const ClassSums::Row& { return rows[static_cast<std::size_t>(i)]; };
    result.probabilities = collect(width_, communicator, [&](std::int64_t i) {
      return row(i / width_).probabilities[static_cast<std::size_t>(i % width_)];
    });
    result.probability_stddev = collect(width_, communicator, spread(result.samples));
    result.entropy = collect(1, communicator, [&](std::int64_t i) { return row(i).entropy; });
    result.mutual_information = collect(1, communicator, [&](std::int64_t i) { return row(i).mutual_information; });
    for (auto p = result.probabilities.begin(); p != result.probabilities.end(); p += width_) {
      result.predicted.push_back(std::max_element(p, p + width_) - p);
    }
  }

  void regression_results(InputPredictions& result, Communicator& communicator) const {
    result.columns = width_;
    std::vector<Mixtures::Row> rows;
    for (std::int64_t i = 0; i < share_.rows() * width_; ++i) rows.push_back(mixtures_->row(i, result.samples));
    const auto row = [&](std::int64_t i) -> const Mixtures::Row& { return rows[static_cast<std::size_t>(i)]; };
    result.mean = collect(width_, communicator, [&](std::int64_t i) { return row(i).mean; });
    result.stddev = collect(width_, communicator, [&](std::int64_t i) {
      return std::sqrt(row(i).aleatoric_variance + row(i).epistemic_variance);
    });
    result.mean_stddev =
        collect(width_, communicator, [&](std::int64_t i) { return std::sqrt(row(i).epistemic_variance); });
    result.lower = collect(width_, communicator, [&](std::int64_t i) { return row(i).lower; });
    result.upper = collect(width_, communicator, [&](std::int64_t i) { return row(i).upper; });
  }

  void flag_results(InputPredictions& result, Communicator& communicator) const {
    result.columns = width_;
    result.mean = collect(width_, communicator, [&](std::int64_t i) { return probabilities_->mean(i); });
    for (const double p : result.mean) result.stddev.push_back(std::sqrt(p * (1.0 - p)));
    result.mean_stddev = collect(width_, communicator, spread(result.samples));
  }

  Value spread(int draws) const {
    return [this, draws](std::int64_t i) { return std::sqrt(probabilities_->variance(i, draws)); };
  }

  const Likelihood& likelihood_;
  BlockShare share_;
  std::int64_t width_;
  std::optional<ClassSums> classes_;
  std::optional<RunningMoments> probabilities_;  // [rows, C] or, for several Bernoulli columns, [rows, D]
  std::optional<Mixtures> mixtures_;             // of numbers
};

}  // namespace

std::vector<InputPredictions> predict(const PredictParts& parts, std::span<const PredictionInput> inputs,
                                      const PredictOptions& options) {
  require(options.samples >= 1, "--samples must be at least 1, not {}", options.samples);
  require(
      !is_generative(parts.likelihood),
      "a vae describes its inputs and predicts neither classes nor numbers; evaluate --predictions FILE writes bounds "
      "on log p(x), reconstructions and samples");
  const torch::NoGradGuard no_grad;
  const EvaluationMode mode(parts.network, parts.posterior);
  const PassParts through{parts.network, parts.likelihood, parts.communicator, options.seed};
  const int draws = prediction_draws(parts.posterior, options.samples);

  std::deque<InputSums> sums;
  std::vector<Subject> subjects;
  for (const PredictionInput& input : inputs) {
    const BlockShare share(input.count, options.block, parts.communicator);
    InputSums& of_input = sums.emplace_back(parts.likelihood, share);
    subjects.push_back(
        {input.source, share, {[&of_input](const BlockOutputs& outputs) { of_input.add(outputs); }}, input.first});
  }
  // Files are read here, and may fail on one rank only.
  collectively(parts.communicator, [&] {
    const WeightSeries weights[] = {
        {draws, [&](int draw) { draw_for_prediction(parts.network, parts.posterior, options.seed, draw); }}};
    pass(through, weights, subjects, options.kept_bytes);
  });
  std::vector<InputPredictions> results;
  for (const InputSums& of_input : sums) results.push_back(of_input.result(draws, parts.communicator));
  return results;
}

}  // namespace credence
