#include "credence/optimizers/optimizer.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "credence/base/errors.h"

namespace credence {
namespace {

// IVON: the first Hessian of a weight whose given scale says less than its prior, as a share of the weight decay.
constexpr double kLeastHessian = 1e-3;

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

const InformedPrior* informed_prior(const PosteriorPlan& plan, int slot) {
  return slot < static_cast<int>(plan.priors.size())
             ? std::get_if<InformedPrior>(&plan.priors[static_cast<std::size_t>(slot)])
             : nullptr;
}

/// 1 / variance of a Gaussian prior: of each weight of the slot, or one number for all. float64
torch::Tensor prior_precision(const Posterior& posterior, int slot) {
  const PosteriorPlan& plan = posterior.plan();
  const auto index = static_cast<std::size_t>(slot);
  const auto options = torch::dtype(torch::kFloat64).device(posterior.mean().device());
  const InformedPrior* const prior = informed_prior(plan, slot);
  if (prior == nullptr) return torch::full({}, std::pow(plan.segments[index].prior_scale, -2.0), options);
  return (prior->tensors->at(plan.layout.slots[index].name).scale.to(options) * prior->inflate).square().reciprocal();
}

void require_gaussian_priors(const PosteriorPlan& plan) {
  for (std::size_t i = 0; i < plan.priors.size(); ++i) {
    require(!plan.segments[i].gaussian || treatment(plan.priors[i]) == PriorTreatment::kernels ||
                std::holds_alternative<InformedPrior>(plan.priors[i]),
            "IVON takes a Gaussian prior as weight decay, and {} has the prior {}; use adam, or normal, checkpoint: or "
            "weights: as the prior",
            plan.layout.slots[i].name, describe(plan.priors[i]));
  }
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
  const Objective::Weights full = options_.objective.weights(options_.objective.warmup_steps);
  require(weights.entropy > 0.0,
          "IVON derives its scales from the weight of the entropy, which is zero; give a positive KL weight and "
          "temperature, or use adam");
  require_gaussian_priors(posterior_.plan());
  const auto examples = static_cast<double>(options_.objective.dataset_size);
  const torch::Tensor scales = posterior_.scales();
  for (int slot = 0; slot < static_cast<int>(posterior_.segments().size()); ++slot) {
    const kernels::Segment& segment = posterior_.segments()[static_cast<std::size_t>(slot)];
    if (!segment.gaussian) continue;
    const auto part = [&](const torch::Tensor& arena) { return arena.narrow(0, segment.offset, segment.count); };
    if (!options_.given_scales.contains(slot)) {
      const double decay = weights.cross_entropy / (examples * segment.prior_scale * segment.prior_scale);
      const double scale = std::sqrt(weights.entropy / (examples * (options_.hess_init + decay)));
      part(posterior_.raw_scale()).fill_(kernels::inverse_softplus(scale));
      part(moments_.scale_first).fill_(options_.hess_init);
      continue;
    }
    const torch::Tensor decay = (prior_precision(posterior_, slot) * (weights.cross_entropy / examples)).flatten();
    // Of the KL's full weight, also where it warms up: the first steps are as long as without.
    const torch::Tensor precision = full.entropy / (examples * part(scales).to(torch::kFloat64).square());
    const torch::Tensor hessian = torch::maximum(precision - decay, kLeastHessian * decay);
    part(moments_.scale_first).copy_(hessian);
    const torch::Tensor scale = (weights.entropy / (examples * (hessian + decay))).sqrt();
    part(posterior_.raw_scale()).copy_(torch::log(torch::expm1(scale)));
  }
  posterior_.set_drawn(std::nullopt);
}

/// The kernels know one weight decay for a tensor; those of single weights are in the Hessian while they work.
void Optimizer::add_informed_decay(double weight) {
  if (options_.rule != kernels::Rule::ivon) return;
  for (int slot = 0; slot < posterior_.plan().network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    if (informed_prior(posterior_.plan(), slot) == nullptr || !posterior_.plan().segments[index].gaussian ||
        !posterior_.works_on(slot)) {
      continue;
    }
    posterior_.view(moments_.scale_first, slot).add_(prior_precision(posterior_, slot), weight);
  }
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

Optimizer::Result Optimizer::step(const GradientSum& gradient_sum, const Step& step) {
  kernels::UpdateRule rule = rule_of(step);
  ArenaKernels& kernels = posterior_.kernels();
  const UpdateShare* const share = step.share;
  const auto segments = share != nullptr ? share->segments() : posterior_.segments();
  const GradientSum gradient = share != nullptr ? share->gradient(gradient_sum) : gradient_sum;
  const auto of_all = [&](std::vector<kernels::SegmentSums> sums) {
    if (share != nullptr) sums = share->placed(sums);
    if (step.sum_over_ranks) step.sum_over_ranks(sums);
    return share != nullptr ? share->of_segments(sums) : sums;
  };
  const auto measure = [&] {
    return of_all(kernels.measure(segments, rule, posterior_.mean(), posterior_.raw_scale(), gradient));
  };
  if (options_.clip_norm) {
    rule.clip_multiplier = std::min(1.0, *options_.clip_norm / std::max(gradient_norm_of(measure()), 1e-300));
  }
  std::vector<kernels::SegmentRates> rates;
  if (rule.rule == kernels::Rule::lars) {
    for (const kernels::SegmentSums& sums : measure()) {
      const kernels::Segment& segment = posterior_.segments()[rates.size()];
      rates.push_back(trust_ratios(options_.trust, segment, sums, rule.cross_entropy_weight));
    }
    if (share != nullptr) rates = share->rates(rates);
    rule.rates = rates;
  }
  const bool draw_next = step.next_draw.has_value() && posterior_.is_random();
  Result result;
  add_informed_decay(rule.cross_entropy_weight);
  result.sums = of_all(kernels.update(segments, rule, posterior_.mean(), posterior_.raw_scale(), moments_, gradient,
                                      draw_next ? posterior_.weights() : torch::Tensor(),
                                      step.next_draw.value_or(kernels::NoiseStream{})));
  add_informed_decay(-rule.cross_entropy_weight);
  posterior_.set_drawn(draw_next ? step.next_draw : std::nullopt);
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
