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

}  // namespace

Optimizer::Optimizer(Posterior& posterior, const OptimizerOptions& options) : posterior_(posterior), options_(options) {
  require(options.learning_rate >= 0.0 && options.scale_learning_rate >= 0.0, "learning rates must not be negative");
  const bool adam = options.rule == kernels::Rule::adam;
  moments_.mean_first = torch::zeros_like(posterior.mean());
  if (adam) moments_.mean_second = torch::zeros_like(posterior.mean());
  if (!posterior.has_gaussian()) return;
  moments_.scale_first = torch::zeros_like(posterior.mean());
  if (adam) moments_.scale_second = torch::zeros_like(posterior.mean());
}

Optimizer::Result Optimizer::step(const GradientSum& gradient, const Step& step) {
  kernels::UpdateRule rule;
  rule.rule = options_.rule;
  rule.learning_rate = options_.learning_rate * step.learning_rate_factor;
  rule.scale_learning_rate = options_.scale_learning_rate * step.learning_rate_factor;
  rule.beta1 = options_.beta1;
  rule.beta2 = options_.beta2;
  rule.epsilon = options_.epsilon;
  rule.step = step.number + 1;
  rule.gradient_multiplier = step.gradient_multiplier;
  rule.cross_entropy_weight = step.weights.cross_entropy / static_cast<double>(step.dataset_size);
  rule.entropy_weight = step.weights.entropy / static_cast<double>(step.dataset_size);

  ArenaKernels& kernels = posterior_.kernels();
  if (options_.clip_norm) {
    const double norm = gradient_norm_of(
        kernels.measure(posterior_.segments(), rule, posterior_.mean(), posterior_.raw_scale(), gradient));
    rule.clip_multiplier = std::min(1.0, *options_.clip_norm / std::max(norm, 1e-300));
  }
  const bool draw_next = step.next_draw.has_value() && posterior_.is_random();
  Result result;
  result.sums = kernels.update(posterior_.segments(), rule, posterior_.mean(), posterior_.raw_scale(), moments_,
                               gradient, draw_next ? posterior_.weights() : torch::Tensor(),
                               step.next_draw.value_or(kernels::NoiseStream{}));
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
  add(adam ? "scale_first_moment" : "scale_momentum", moments_.scale_first);
  add("scale_second_moment", moments_.scale_second);
  return slots;
}

}  // namespace credence
