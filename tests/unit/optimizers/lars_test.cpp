// LARS against the paper's formulas, tensor by tensor.
#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"
#include "credence/optimizers/optimizer.h"
#include "unit/optimizers/posteriors.h"

namespace credence {
namespace {

constexpr double kPrior = 0.7, kTrust = 0.02, kMomentum = 0.8, kRate = 1.5, kScaleRate = 0.5;
constexpr std::int64_t kExamples = 20;

struct Tensor {
  std::int64_t offset, count;
  bool gaussian, layerwise;
};
const Tensor kTensors[] = {{0, 40, true, true}, {64, 3, true, false}, {128, 5, false, true}, {192, 2, false, false}};

/// Gaussian and point tensors, with and without a trust ratio, and one whose means are zero.
Posterior posterior_of() {
  std::vector<kernels::Segment> segments;
  for (const Tensor& tensor : kTensors) {
    segments.push_back({.offset = tensor.offset,
                        .count = tensor.count,
                        .gaussian = tensor.gaussian,
                        .prior_mean = 0.1,
                        .prior_scale = kPrior,
                        .layerwise = tensor.layerwise});
  }
  segments.push_back({.offset = 256, .count = 4, .gaussian = true, .prior_scale = kPrior});
  const torch::Tensor values = torch::cos(torch::arange(320, torch::kFloat64));
  values.narrow(0, 256, 64).zero_();
  return test::posterior_over(segments, values);
}

GradientSum gradient_at(std::int64_t step, const Posterior& posterior) {
  GradientSum sums;
  for (const auto& segment : posterior.segments()) {
    sums.slots.push_back(torch::sin(0.7 * (torch::arange(segment.count, torch::kFloat64) + 1.0 + segment.offset) *
                                    static_cast<double>(step + 1)));
  }
  sums.scaled = torch::sin(torch::arange(320, torch::kFloat64) * (1.9 + static_cast<double>(step)));
  return sums;
}

double norm_of(const torch::Tensor& values) {
  return std::sqrt(values.square().sum().item<double>());
}

/// You et al. 2017, eq. 6 and algorithm 1, over one tensor; weight decay towards the prior's mean.
TEST(Lars, FollowsThePaper) {
  Posterior posterior = posterior_of();
  Optimizer optimizer(posterior, {.rule = kernels::Rule::lars,
                                  .learning_rate = kRate,
                                  .scale_learning_rate = kScaleRate,
                                  .beta1 = kMomentum,
                                  .clip_norm = {},
                                  .trust = kTrust});
  const std::size_t count = posterior.segments().size();
  std::vector<torch::Tensor> mean(count), raw(count), mean_momentum(count), raw_momentum(count);
  const auto part = [&](const torch::Tensor& arena, std::size_t s) {
    return arena.narrow(0, posterior.segments()[s].offset, posterior.segments()[s].count);
  };
  for (std::size_t s = 0; s < count; ++s) {
    mean[s] = part(posterior.mean(), s).clone();
    raw[s] = part(posterior.raw_scale(), s).clone();
    mean_momentum[s] = torch::zeros_like(mean[s]);
    raw_momentum[s] = torch::zeros_like(mean[s]);
  }
  const double decay = 0.9 / (kExamples * kPrior * kPrior);
  for (int t = 0; t < 5; ++t) {
    const GradientSum sums = gradient_at(t, posterior);
    optimizer.step(sums, {.number = t,
                          .learning_rate_factor = 1.0 / (t + 1),
                          .gradient_multiplier = 0.5,
                          .weights = {.cross_entropy = 0.9, .entropy = 0.4},
                          .dataset_size = kExamples,
                          .next_draw = std::nullopt});
    for (std::size_t s = 0; s < count; ++s) {
      const kernels::Segment& segment = posterior.segments()[s];
      const torch::Tensor likelihood = 0.5 * sums.slots[s];
      const double length = norm_of(mean[s]);
      const bool adapts = segment.layerwise && length > 0.0;
      const double trust = adapts ? kTrust * length / (norm_of(likelihood) + decay * length) : 1.0;
      const torch::Tensor gradient = likelihood + decay * (mean[s] - segment.prior_mean);
      mean_momentum[s] = kMomentum * mean_momentum[s] + kRate / (t + 1) * trust * gradient;
      mean[s] = mean[s] - mean_momentum[s];
      EXPECT_LT(norm_of(part(posterior.mean(), s) - mean[s]), 1e-12) << s << " at " << t;
      if (!segment.gaussian) continue;
      const torch::Tensor scale = raw[s].exp().log1p();
      const torch::Tensor slope = raw[s].sigmoid();
      const torch::Tensor raw_gradient = (0.5 * part(sums.scaled, s) + decay * scale - 0.4 / kExamples / scale) * slope;
      const double scale_trust =
          segment.layerwise ? kTrust * std::sqrt(static_cast<double>(segment.count)) / norm_of(raw_gradient) : 1.0;
      raw_momentum[s] = kMomentum * raw_momentum[s] + kScaleRate / (t + 1) * scale_trust * raw_gradient;
      raw[s] = raw[s] - raw_momentum[s];
      EXPECT_LT(norm_of(part(posterior.raw_scale(), s) - raw[s]), 1e-12) << s << " at " << t;
    }
  }
}

TEST(Lars, FirstStepChangesATensorByTheTrustWhateverTheGradientsSize) {
  for (const double size : {1e-3, 1.0, 1e3}) {
    Posterior posterior = test::posterior_over({{.offset = 0, .count = 40, .gaussian = false}},
                                               torch::cos(torch::arange(64, torch::kFloat64)));
    Optimizer optimizer(posterior,
                        {.rule = kernels::Rule::lars, .learning_rate = 2.0, .clip_norm = {}, .trust = kTrust});
    const torch::Tensor before = posterior.mean().clone();
    GradientSum sums;
    sums.slots = {size * torch::sin(torch::arange(40, torch::kFloat64))};
    optimizer.step(sums, {.weights = {}, .next_draw = std::nullopt});
    EXPECT_NEAR(norm_of(posterior.mean() - before), 2.0 * kTrust * norm_of(before.narrow(0, 0, 40)), 1e-14);
  }
}

TEST(Lars, RefusesAClipNorm) {
  Posterior posterior = posterior_of();
  EXPECT_THROW(Optimizer(posterior, {.rule = kernels::Rule::lars, .clip_norm = 1.0}), UserError);
}

}  // namespace
}  // namespace credence
