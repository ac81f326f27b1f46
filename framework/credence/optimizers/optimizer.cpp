#include "credence/optimizers/optimizer.h"

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"

namespace credence {
namespace {

double gradient_norm_of(const std::vector<kernels::SegmentSums>& sums) {
  double squares = 0.0;
  for (const auto& segment : sums) squares += segment.squared_gradient;
  return std::sqrt(squares);
}

/// One tensor's rates, from sums over it (You et al. 2017, eq. 6). 1 where nothing can be said.
kernels::SegmentRates trust_ratios(double trust, const kernels::Segment& segment, const kernels::SegmentSums& sums,
                                   double cross_entropy_weight) {
  kernels::SegmentRates rates;
  if (!segment.layerwise) return rates;
  const double norm = std::sqrt(sums.squared_mean);
  const double decay = cross_entropy_weight / (segment.prior_scale * segment.prior_scale);
  const double gradient = std::sqrt(sums.squared_mean_gradient) + decay * norm;
  if (norm > 0.0 && gradient > 0.0) rates.mean = trust * norm / gradient;
  if (sums.squared_raw_gradient > 0.0) {
    rates.scale = trust * std::sqrt(static_cast<double>(segment.count) / sums.squared_raw_gradient);
  }
  return rates;
}

}  // namespace

Optimizer::Optimizer(Posterior& posterior, const OptimizerOptions& options) : posterior_(posterior), options_(options) {
  require(options.learning_rate >= 0.0 && options.scale_learning_rate >= 0.0, "learning rates must not be negative");
  require(!options.clip_norm || options.rule == kernels::Rule::adam || options.rule == kernels::Rule::sgd,
          "clipping by the gradient's norm goes with adam and sgd: IVON has --clip-radius, and LARS sets the length of "
          "every step itself; leave --clip-norm out");
  const bool adam = options.rule == kernels::Rule::adam;
  moments_.mean_first = torch::zeros_like(posterior.mean());
  if (adam) moments_.mean_second = torch::zeros_like(posterior.mean());
  if (posterior.has_gaussian()) moments_.scale_first = torch::zeros_like(posterior.mean());
  if (adam && posterior.has_gaussian()) moments_.scale_second = torch::zeros_like(posterior.mean());
  if (options.rule == kernels::Rule::ivon) start_ivon();
}

void Optimizer::start_ivon() {
  for (const Family& family : posterior_.plan().families) {
    require(!family.gaussian() || family.kind == Family::Kind::mean_field,
            "IVON learns the scales of mean-field Gaussians and one tensor has the posterior {}; use adam",
            describe(family));
  }
  require(posterior_.has_gaussian(), "IVON learns the scales of Gaussian tensors and there are none; use adam or sgd");
  require(options_.hess_init > 0.0 && options_.clip_radius > 0.0,
          "IVON needs a positive first Hessian and clip radius, not {} and {}", options_.hess_init,
          options_.clip_radius);
  const Objective::Weights weights = options_.objective.weights(0);
  require(weights.entropy > 0.0,
          "IVON derives its scales from the weight of the entropy, which is zero; give a positive KL weight and "
          "temperature, or use adam");
  const auto examples = static_cast<double>(options_.objective.dataset_size);
  torch::Tensor raw = posterior_.raw_scale();
  for (const kernels::Segment& segment : posterior_.segments()) {
    if (!segment.gaussian) continue;
    const double decay = weights.cross_entropy / (examples * segment.prior_scale * segment.prior_scale);
    const double scale = std::sqrt(weights.entropy / (examples * (options_.hess_init + decay)));
    raw.narrow(0, segment.offset, segment.count).fill_(kernels::inverse_softplus(scale));
    moments_.scale_first.narrow(0, segment.offset, segment.count).fill_(options_.hess_init);
  }
  posterior_.set_drawn(std::nullopt);
}

kernels::UpdateRule Optimizer::rule_of(const Step& step) const {
  kernels::UpdateRule rule;
  rule.rule = options_.rule;
  rule.learning_rate = options_.learning_rate * step.learning_rate_factor;
  rule.scale_learning_rate = options_.scale_learning_rate * step.learning_rate_factor;
  rule.beta1 = options_.beta1;
  rule.beta2 = options_.beta2;
  rule.epsilon = options_.epsilon;
  rule.hess_init = options_.hess_init;
  rule.clip_radius = options_.clip_radius;
  rule.step = step.number + 1;
  rule.gradient_multiplier = step.gradient_multiplier;
  rule.cross_entropy_weight = step.weights.cross_entropy / static_cast<double>(step.dataset_size);
  rule.entropy_weight = step.weights.entropy / static_cast<double>(step.dataset_size);
  return rule;
}

Optimizer::Result Optimizer::step(const GradientSum& gradient, const Step& step) {
  kernels::UpdateRule rule = rule_of(step);
  ArenaKernels& kernels = posterior_.kernels();
  const auto measure = [&] {
    return kernels.measure(posterior_.segments(), rule, posterior_.mean(), posterior_.raw_scale(), gradient);
  };
  if (options_.clip_norm) {
    std::vector<kernels::SegmentSums> sums = measure();
    if (step.sum_over_ranks) step.sum_over_ranks(sums);
    rule.clip_multiplier = std::min(1.0, *options_.clip_norm / std::max(gradient_norm_of(sums), 1e-300));
  }
  std::vector<kernels::SegmentRates> rates;
  if (rule.rule == kernels::Rule::lars) {
    for (const kernels::SegmentSums& sums : measure()) {
      const kernels::Segment& segment = posterior_.segments()[rates.size()];
      rates.push_back(trust_ratios(options_.trust, segment, sums, rule.cross_entropy_weight));
    }
    rule.rates = rates;
  }
  const bool draw_next = step.next_draw.has_value() && posterior_.is_random();
  Result result;
  result.sums = kernels.update(posterior_.segments(), rule, posterior_.mean(), posterior_.raw_scale(), moments_,
                               gradient, draw_next ? posterior_.weights() : torch::Tensor(),
                               step.next_draw.value_or(kernels::NoiseStream{}));
  posterior_.set_drawn(draw_next ? step.next_draw : std::nullopt);
  if (step.sum_over_ranks) step.sum_over_ranks(result.sums);
  result.gradient_norm = gradient_norm_of(result.sums);
  return result;
}

std::vector<std::pair<std::string, torch::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> slots;
  const auto add = [&](const char* name, const torch::Tensor& arena) {
    if (arena.defined()) slots.emplace_back(name, arena);
  };
  const bool adam = options_.rule == kernels::Rule::adam;
  add(adam ? "mean_first_moment" : "mean_momentum", moments_.mean_first);
  add("mean_second_moment", moments_.mean_second);
  add(adam                                   ? "scale_first_moment"
      : options_.rule == kernels::Rule::ivon ? "scale_hessian"
                                             : "scale_momentum",
      moments_.scale_first);
  add("scale_second_moment", moments_.scale_second);
  return slots;
}

}  // namespace credence
