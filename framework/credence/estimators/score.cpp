#include "credence/estimators/score.h"

#include "credence/base/errors.h"

namespace credence {
namespace {

void require_independent_gaussians(const PosteriorPlan& plan) {
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    const Family& family = plan.families[i];
    require(family.kind != Family::Kind::categorical,
            "--estimator score draws weights, and the network takes the expectation over {} exactly; use --estimator "
            "reparam",
            plan.layout.slots[i].name);
    require(family.kind == Family::Kind::mean_field || family.kind == Family::Kind::sparse,
            "--estimator score needs the posterior mean-field or sparse for every tensor, and that of {} is {}; give "
            "--posterior '{}=mean-field', or use --estimator reparam",
            plan.layout.slots[i].name, describe(family), plan.layout.slots[i].name);
  }
}

}  // namespace

ScoreEstimator::ScoreEstimator(const Parts& parts, const Options& options) : Estimator(parts, options) {
  const PosteriorPlan& plan = parts.posterior.plan();
  require_independent_gaussians(plan);
  require(options.samples >= 2,
          "--estimator score compares the losses of several draws, and --weight-samples is {}; give at least 2, or use "
          "--estimator reparam",
          options.samples);
  std::int64_t weights = 0;
  for (int slot = 0; slot < plan.member_slots(); ++slot)
    weights += plan.layout.slots[static_cast<std::size_t>(slot)].count;
  const int sharers = options.noise == NoiseSharing::shared       ? options.shards
                      : options.noise == NoiseSharing::antithetic ? 2
                                                                  : 1;
  const std::int64_t draws = std::int64_t{options.samples} * (options.shards / sharers);
  require(
      weights <= kWeightsPerDraw * draws,
      "--estimator score sees {} draws a step, too few for {} weights: at most {} for each draw; give "
      "--weight-samples {} or more, or use --estimator reparam",
      draws, weights, kWeightsPerDraw,
      (weights + kWeightsPerDraw * (options.shards / sharers) - 1) / (kWeightsPerDraw * (options.shards / sharers)));
  losses_.resize(place(options.shards, 0, 0));
  mean_gradient_ = torch::zeros_like(parts.posterior.mean());
  for (torch::Tensor* arena : {&scale_gradient_, &constant_, &product_, &scratch_})
    *arena = torch::zeros_like(mean_gradient_);
}

std::size_t ScoreEstimator::place(int shard, int sample, int member) const {
  const int members = parts().posterior.plan().members;
  return (static_cast<std::size_t>(shard) * static_cast<std::size_t>(options().samples) +
          static_cast<std::size_t>(sample)) *
             static_cast<std::size_t>(members) +
         static_cast<std::size_t>(member);
}

void ScoreEstimator::run_pass(const Pass& pass) {
  const torch::NoGradGuard no_grad;
  step_ = pass.step;
  parts().posterior.draw(pass.noise);
  for (int member = 0; member < parts().posterior.plan().members; ++member) {
    if (parts().posterior.plan().members > 1) parts().network.bind(parts().posterior.network_weights(member));
    seed_module(pass, member);
    const torch::Tensor outputs = parts().network.forward(pass.examples.inputs);
    const torch::Tensor nll = mean_negative_log_likelihood(parts().likelihood, outputs, pass.examples.targets);
    losses_[place(pass.shard, pass.sample, member)] =
        charge_priors(pass, nll, parts().network.parameters(), member).item<double>();
    note(pass, {nll}, outputs, member);
  }
}

void ScoreEstimator::finish_step() {
  parts()
      .communicator.all_gather({losses_.data(), static_cast<std::int64_t>(losses_.size()), DType::float64, Device::cpu})
      .wait();
  mean_gradient_.zero_();
  scale_gradient_.zero_();
  const bool shared = options().noise == NoiseSharing::shared;  // all shards' advantages belong to one draw
  for (int shard = 0; shard < (shared ? 1 : options().shards); ++shard) {
    for (int sample = 0; sample < options().samples; ++sample) {
      for (int member = 0; member < parts().posterior.plan().members; ++member) {
        double sum = 0.0;
        for (int of = shard; of < (shared ? options().shards : shard + 1); ++of) sum += advantage(of, sample, member);
        add_draw(stream(step_, shard, sample), member, sum);
      }
    }
  }
  const torch::Tensor scales = parts().posterior.scales();
  for (int slot = 0; slot < parts().posterior.plan().network_slots; ++slot) {
    for (const torch::Tensor& arena : {mean_gradient_, scale_gradient_})
      parts().posterior.view(arena, slot).div_(parts().posterior.view(scales, slot));
  }
}

/// A draw's loss minus the mean over the shard's other draws of it.
double ScoreEstimator::advantage(int shard, int sample, int member) const {
  double others = 0.0;
  for (int other = 0; other < options().samples; ++other) {
    if (other != sample) others += losses_[place(shard, other, member)];
  }
  return losses_[place(shard, sample, member)] - others / (options().samples - 1);
}

/// d log q / d mean = eps / scale and d log q / d scale = (eps^2 - 1) / scale; the -1 is left out, since a shard's
/// advantages add up to zero.
void ScoreEstimator::add_draw(const kernels::NoiseStream& noise, int member, double advantage) {
  const PosteriorPlan& plan = parts().posterior.plan();
  ArenaKernels& kernels = parts().posterior.kernels();
  constant_.fill_(advantage);
  for (int slot = member * plan.member_slots(); slot < (member + 1) * plan.member_slots(); ++slot) {
    const kernels::Segment& segment = plan.segments[static_cast<std::size_t>(slot)];
    kernels.accumulate(segment, constant_, noise, false, scratch_, product_);
    kernels.accumulate(segment, product_.narrow(0, segment.offset, segment.count), noise, true, mean_gradient_,
                       scale_gradient_);
  }
}

GradientSum ScoreEstimator::sum_of_gradients() const {
  GradientSum gradient;
  for (const kernels::Segment& segment : parts().posterior.segments())
    gradient.slots.push_back(mean_gradient_.narrow(0, segment.offset, segment.count));
  gradient.scaled = scale_gradient_;
  return gradient;
}

}  // namespace credence
