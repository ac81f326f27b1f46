#include "credence/prediction/evaluate.h"

#include <fmt/ranges.h>

#include <cmath>
#include <deque>

#include "credence/base/errors.h"
#include "credence/prediction/dataset_sums.h"
#include "credence/prediction/depths.h"
#include "credence/prediction/generative.h"
#include "credence/prediction/pass.h"
#include "credence/prediction/predictive_checks.h"
#include "credence/prediction/surface.h"
#include "credence/prediction/training_elbo.h"

namespace credence {
namespace {

void check(const EvaluationParts& parts, const EvaluationOptions& options) {
  require(options.samples >= 1, "--samples must be at least 1, not {}", options.samples);
  require(options.block >= 1, "evaluation needs blocks of at least one example, not {}", options.block);
  require(options.ece_bins >= 1, "the calibration error needs at least one bin, not {}", options.ece_bins);
  require(parts.source.size() > 0, "there are no examples to evaluate");
  if (parts.ood != nullptr) {
    require(is_classification(parts.likelihood) || is_generative(parts.likelihood),
            "out-of-distribution data are told by the entropy over classes or the density of inputs, and this "
            "likelihood has neither; leave --ood away");
    require(parts.ood->size() > 0, "the out-of-distribution data are empty");
    require(parts.ood->spec().input_shape == parts.source.spec().input_shape,
            "the out-of-distribution data have inputs [{}], and the network takes [{}]",
            fmt::join(parts.ood->spec().input_shape, ", "), fmt::join(parts.source.spec().input_shape, ", "));
  }
  require(
      options.checks.empty() || !is_generative(parts.likelihood),
      "posterior predictive checks replicate labels or targets, and this likelihood describes inputs; leave --check "
      "away");
  require(parts.norms == nullptr || !parts.posterior.linearized(),
          "--norm-statistics refresh is for draws in the network itself; use --predictive sampled, or running");
  if (parts.training != nullptr) {
    require(parts.training->size() > 0, "there are no training examples");
    require(parts.training->spec().input_shape == parts.source.spec().input_shape,
            "the training data have inputs [{}], and those to evaluate [{}]",
            fmt::join(parts.training->spec().input_shape, ", "), fmt::join(parts.source.spec().input_shape, ", "));
  }
}

bool has_surface(const EvaluationParts& parts, const EvaluationOptions& options) {
  return options.surface && is_classification(parts.likelihood) && output_size(parts.likelihood) <= 2 &&
         parts.source.spec().input_elements() == 2;
}

/// All that is summed while draws pass, for one evaluation.
class Evaluator {
 public:
  Evaluator(const EvaluationParts& parts, const EvaluationOptions& options)
      : parts_(parts),
        options_(options),
        draws_(prediction_draws(parts.posterior, options.samples)),
        members_(parts.posterior.plan().members),
        training_(parts, options.block, draws_) {
    using Content = PredictionSums::Content;
    add(parts.source, Content::scored, test_);
    if (!options.checks.empty()) add_replicates();
    if (const auto* depth = std::get_if<DepthLikelihood>(&parts.likelihood)) add_depths(*depth);
    if (parts.ood != nullptr) add(*parts.ood, Content::inputs_only, ood_);
    if (has_surface(parts, options)) {
      grid_ = make_input_grid(parts.source);
      surface_.emplace(sums_for(*grid_->points, Content::inputs_with_spread));
      subjects_.push_back({*grid_->points, share_of(*grid_->points), {into(*surface_)}});
    }
    if (parts.training != nullptr) {
      subjects_.push_back(
          {*parts.training, share_of(*parts.training), {[this](const BlockOutputs& o) { training_.add(o); }}});
    }
  }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  void run() {
    const PassParts through{parts_.network, parts_.likelihood, parts_.communicator, options_.seed};
    const auto bind_draw = [&](int draw) {
      draw_for_prediction(parts_.network, parts_.posterior, options_.seed, draw);
      use_norms(draw);
      training_.charge_priors(draw);
    };
    const torch::Tensor mean_weights = parts_.posterior.mean_weights();
    const auto bind_mean = [&](int member) {
      parts_.network.bind(parts_.posterior.member_part(mean_weights, member));
      use_norms(draws_ + member);
    };
    const WeightSeries weights[] = {{draws_, bind_draw}, {members_, bind_mean}};
    pass(through, weights, subjects_, options_.kept_bytes);
    parts_.network.bind(parts_.posterior.network_weights());
  }

  /// Collective.
  Evaluation result() {
    Communicator& communicator = parts_.communicator;
    PredictionSums::Scores predictive =
        test_[0].scores(draws_, options_.ece_bins, options_.keep_probabilities, communicator);
    PredictionSums::Scores mean = test_[1].scores(members_, options_.ece_bins, false, communicator);
    Evaluation evaluation;
    evaluation.examples = parts_.source.size();
    evaluation.predictive = predictive.metrics;
    evaluation.mean = mean.metrics;
    if (!ood_.empty()) {
      evaluation.ood_entropy = ood_[0].entropies(draws_, communicator);
      evaluation.predictive.ood_auroc = area_under_roc(predictive.classes->entropy, evaluation.ood_entropy);
      evaluation.mean.ood_auroc = area_under_roc(mean.classes->entropy, ood_[1].entropies(members_, communicator));
    }
    if (predictive.classes) evaluation.reliability = reliability(*predictive.classes, options_.ece_bins);
    if (surface_) evaluation.surface = surface();
    evaluation.elbo = training_.estimate();
    if (depths_) evaluation.depth = depths_->report(draws_, options_.ece_bins, communicator);
    if (replicated_) {
      evaluation.checks = replicated_->checks(
          options_.checks, predictive.classes ? predictive.classes->predicted : std::vector<std::int64_t>{},
          communicator);
    }
    evaluation.classes = std::move(predictive.classes);
    evaluation.regression = std::move(predictive.regression);
    return evaluation;
  }

 private:
  BlockShare share_of(const DataSource& source) const { return {source.size(), options_.block, parts_.communicator}; }
  PredictionSums sums_for(const DataSource& source, PredictionSums::Content content) const {
    return {parts_.likelihood, share_of(source), content};
  }
  static std::function<void(const BlockOutputs&)> into(PredictionSums& sums) {
    return [&sums](const BlockOutputs& outputs) { sums.add(outputs); };
  }
  void add(const DataSource& source, PredictionSums::Content content, std::deque<PredictionSums>& sums) {
    PredictionSums& under_draws = sums.emplace_back(sums_for(source, content));
    PredictionSums& at_mean = sums.emplace_back(sums_for(source, content));
    subjects_.push_back({source, share_of(source), {into(under_draws), into(at_mean)}});
  }
  std::function<void(const BlockOutputs&)>& take_of_draws() { return subjects_.back().take.front(); }

  /// Of weights that an earlier chunk has passed under, the statistics from then.
  void use_norms(int number) {
    if (parts_.norms == nullptr) return;
    norms_.resize(static_cast<std::size_t>(draws_ + members_));
    NormStatistics::Values& values = norms_[static_cast<std::size_t>(number)];
    if (values.empty()) values = parts_.norms->estimate(parts_.communicator);
    parts_.norms->use(values);
  }

  /// One replicate a draw, or all of them under the only one.
  void add_replicates() {
    replicated_.emplace(parts_.likelihood, share_of(parts_.source), options_.seed, options_.samples);
    take_of_draws() = [this](const BlockOutputs& outputs) {
      test_[0].add(outputs);
      for (int i = outputs.draw; i < options_.samples; i += draws_) replicated_->add(outputs, i);
    };
  }

  Surface surface() const {
    Surface surface;
    surface.x = grid_->x;
    surface.y = grid_->y;
    surface.probability = surface_->last_probabilities(draws_, parts_.communicator);
    surface.probability_stddev = surface_->last_probability_stddevs(draws_, parts_.communicator);
    for (const double p : surface.probability) surface.label_stddev.push_back(std::sqrt(p * (1.0 - p)));
    return surface;
  }

  /// The network computes every depth, though predictions are those at the mode.
  void add_depths(const DepthLikelihood& likelihood) {
    depths_.emplace(likelihood, share_of(parts_.source));
    take_of_draws() = [this, take = take_of_draws()](const BlockOutputs& outputs) {
      take(outputs);
      depths_->add(outputs);
    };
  }

  const EvaluationParts& parts_;
  const EvaluationOptions& options_;
  int draws_;
  int members_;
  std::deque<PredictionSums> test_, ood_;  // under draws, at the mean
  std::optional<InputGrid> grid_;
  std::optional<PredictionSums> surface_;
  TrainingElbo training_;
  std::optional<ReplicatedData> replicated_;
  std::optional<DepthSums> depths_;
  std::vector<NormStatistics::Values> norms_;  // of the draws, then of the mean's members
  std::vector<Subject> subjects_;              // taken under draws, at the mean
};

}  // namespace

Evaluation evaluate(const EvaluationParts& parts, const EvaluationOptions& options) {
  check(parts, options);
  const torch::NoGradGuard no_grad;
  const EvaluationMode mode(parts.network, parts.posterior);
  if (is_generative(parts.likelihood)) return evaluate_generative(parts, options);
  const HaltingOff whole(parts.network);
  std::optional<Evaluator> evaluator;
  // Files are read here, and may fail on one rank only.
  collectively(parts.communicator, [&] {
    evaluator.emplace(parts, options);
    evaluator->run();
  });
  return evaluator->result();
}

}  // namespace credence
