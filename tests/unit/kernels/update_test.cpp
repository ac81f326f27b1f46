// What update() and measure() mean, against independent computations in double.
#include <gtest/gtest.h>

#include <cmath>

#include "arena.h"
#include "credence/base/errors.h"

namespace credence::kernels::test {
namespace {

const std::vector<std::int64_t> kSizes = {3, 70, 1, 200, 17, 40};
const NoiseStream kNoise{.seed = 5, .step = 2};

double softplus(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

/// A rule whose momentum after one update from zero is the gradient that the optimizer sees; values stay.
UpdateRule gradient_probe() {
  UpdateRule rule = example_rule(Rule::sgd);
  rule.learning_rate = rule.scale_learning_rate = 0.0;
  rule.clip_multiplier = 1.0;
  return rule;
}

/// One element's share of the objective for a likelihood that is linear: slope of the mean and slope of the scale.
double objective(const UpdateRule& rule, const Segment& segment, double mean, double raw, double mean_slope,
                 double scale_slope) {
  const double scale = segment.gaussian ? softplus(raw) : 0.0;
  double value = rule.gradient_multiplier * (mean_slope * mean + scale_slope * scale);
  if (std::isfinite(segment.prior_scale)) {
    const double variance = segment.prior_scale * segment.prior_scale;
    value += rule.cross_entropy_weight * (std::pow(mean - segment.prior_mean, 2) + scale * scale) / (2 * variance);
  }
  return segment.gaussian ? value - rule.entropy_weight * std::log(scale) : value;
}

/// Central differences; their error h^2/6 f''' + 2^-53 |f| / h is below 1e-9 for values and derivatives of order ten.
void expect_finite_differences(bool scaled) {
  Arena<double> arena(kSizes);
  for (auto* state : {&arena.mean_first, &arena.scale_first}) state->assign(state->size(), 0.0);
  auto arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  if (scaled) arrays.scaled_gradient = arena.scaled_gradient.data();
  const UpdateRule rule = gradient_probe();
  reference_kernels<double>(1)->update(arena.segments, rule, arrays);
  arena.for_elements([&](std::size_t s, std::size_t at, std::size_t i) {
    const Segment& segment = arena.segments[s];
    const double slope = arena.gradients[s][i];
    const double scale_slope =
        scaled ? arena.scaled_gradient[at] : slope * standard_normal(kNoise, static_cast<std::int64_t>(at));
    const auto f = [&](double mean, double raw) { return objective(rule, segment, mean, raw, slope, scale_slope); };
    const double mean = arena.mean[at], raw = arena.raw_scale[at], h = 1e-5;
    EXPECT_NEAR(arena.mean_first[at], (f(mean + h, raw) - f(mean - h, raw)) / (2 * h), 1e-8);
    if (!segment.gaussian) {
      EXPECT_EQ(arena.scale_first[at], 0.0);
      return;
    }
    EXPECT_NEAR(arena.scale_first[at], (f(mean, raw + h) - f(mean, raw - h)) / (2 * h), 1e-8) << raw;
  });
}

TEST(Update, GradientEqualsFiniteDifferencesWithTwoSums) {
  expect_finite_differences(true);
}
TEST(Update, GradientEqualsFiniteDifferencesWithOneSum) {
  expect_finite_differences(false);
}

TEST(Update, FloatGradientIsTheDoubleOne) {
  Arena<float> arena(kSizes);
  Arena<double> exact(kSizes);
  for (auto* state : {&arena.mean_first, &arena.scale_first}) state->assign(state->size(), 0.0f);
  for (auto* state : {&exact.mean_first, &exact.scale_first}) state->assign(state->size(), 0.0);
  auto arrays = arena.update_arrays();
  auto exact_arrays = exact.update_arrays();
  arrays.noise = exact_arrays.noise = &kNoise;
  simd_kernels<float>(1)->update(arena.segments, gradient_probe(), arrays);
  reference_kernels<double>(1)->update(exact.segments, gradient_probe(), exact_arrays);
  arena.for_elements([&](std::size_t s, std::size_t at, std::size_t i) {
    // Terms are of the size of their inputs; a dozen roundings of 2^-24 each, inputs rounded too (raw up to 30).
    const double eps = standard_normal(kNoise, static_cast<std::int64_t>(at));
    const double magnitude = 1 + (1 + std::abs(eps)) * std::abs(exact.gradients[s][i]) + std::abs(exact.mean[at]) +
                             std::abs(exact.raw_scale[at]);
    EXPECT_NEAR(arena.mean_first[at], exact.mean_first[at], 16 * 6e-8 * magnitude);
    EXPECT_NEAR(arena.scale_first[at], exact.scale_first[at], 16 * 6e-8 * magnitude);
  });
}

TEST(Update, AdamIsAdam) {
  Arena<double> arena(kSizes), start(kSizes);
  for (auto* a : {&arena, &start}) {
    for (auto* state : {&a->mean_first, &a->mean_second, &a->scale_first, &a->scale_second}) {
      state->assign(state->size(), 0.0);
    }
  }
  UpdateRule rule = example_rule(Rule::adam);
  Arena<double> probe(kSizes);
  std::vector<double> m(arena.mean.size()), v(m), rm(m), rv(m);
  const auto kernels = reference_kernels<double>(1);
  for (rule.step = 1; rule.step <= 20; ++rule.step) {
    // Gradients at the present values, from the probe (checked against finite differences above).
    probe.mean = arena.mean;
    probe.raw_scale = arena.raw_scale;
    for (auto* state : {&probe.mean_first, &probe.scale_first}) state->assign(state->size(), 0.0);
    UpdateRule zero_rate = gradient_probe();
    auto probe_arrays = probe.update_arrays(), arrays = arena.update_arrays();
    probe_arrays.noise = arrays.noise = &kNoise;
    kernels->update(probe.segments, zero_rate, probe_arrays);
    kernels->update(arena.segments, rule, arrays);
    const auto t = static_cast<double>(rule.step);
    const auto adam = [&](double g, double& first, double& second, double rate, double value) {
      first = rule.beta1 * first + (1 - rule.beta1) * g;
      second = rule.beta2 * second + (1 - rule.beta2) * g * g;
      const double mhat = first / (1 - std::pow(rule.beta1, t)), vhat = second / (1 - std::pow(rule.beta2, t));
      return value - rate * mhat / (std::sqrt(vhat) + rule.epsilon);
    };
    arena.for_elements([&](std::size_t s, std::size_t at, std::size_t) {
      const double mean =
          adam(rule.clip_multiplier * probe.mean_first[at], m[at], v[at], rule.learning_rate, start.mean[at]);
      ASSERT_NEAR(arena.mean[at], mean, 1e-13 * (1 + std::abs(mean)));
      start.mean[at] = arena.mean[at];
      if (!arena.segments[s].gaussian) return;
      const double raw = adam(rule.clip_multiplier * probe.scale_first[at], rm[at], rv[at], rule.scale_learning_rate,
                              start.raw_scale[at]);
      ASSERT_NEAR(arena.raw_scale[at], raw, 1e-13 * (1 + std::abs(raw)));
      start.raw_scale[at] = arena.raw_scale[at];
    });
  }
}

TEST(Update, SgdKeepsMomentum) {
  Arena<double> arena({kSizes.data(), 1}), start({kSizes.data(), 1});
  arena.segments[0].prior_scale = std::numeric_limits<double>::infinity();
  UpdateRule rule = example_rule(Rule::sgd);
  rule.entropy_weight = 0;
  auto arrays = arena.update_arrays();
  arrays.scaled_gradient = arena.scaled_gradient.data();
  reference_kernels<double>(1)->update(arena.segments, rule, arrays);
  for (std::size_t i = 0; i < 3; ++i) {
    const double momentum =
        rule.beta1 * start.mean_first[i] + rule.clip_multiplier * rule.gradient_multiplier * arena.gradients[0][i];
    EXPECT_NEAR(arena.mean_first[i], momentum, 1e-15);
    EXPECT_NEAR(arena.mean[i], start.mean[i] - rule.learning_rate * momentum, 1e-15);
  }
}

/// The documented order, literally: lanes, tree, blocks, stretches.
double ordered_sum(std::int64_t count, const auto& term) {
  double sum = 0, stretch = 0;
  for (std::int64_t block = 0; block < count; block += 1024) {
    if (block % 8192 == 0) {
      sum += stretch;
      stretch = 0;
    }
    std::vector<double> lanes(16);
    for (std::int64_t i = block; i < std::min(count, block + 1024); ++i) {
      lanes[static_cast<std::size_t>((i - block) % 16)] += term(i);
    }
    while (lanes.size() > 1) {
      std::vector<double> halves(lanes.size() / 2);
      for (std::size_t l = 0; l < halves.size(); ++l) halves[l] = lanes[l] + lanes[l + halves.size()];
      lanes = halves;
    }
    stretch += lanes[0];
  }
  return sum + stretch;
}

TEST(Measure, SumsInTheDocumentedOrder) {
  Arena<float> arena(kOddSizes);
  auto arrays = arena.update_arrays();
  arrays.gradients = {};
  for (const int threads : {1, 2}) {
    const auto sums = simd_kernels<float>(threads)->measure(arena.segments, {}, arrays);
    for (std::size_t s = 0; s < sums.size(); ++s) {
      const Segment& segment = arena.segments[s];
      if (segment.gaussian) continue;
      EXPECT_EQ(sums[s].squared_deviation, ordered_sum(segment.count, [&](std::int64_t i) {
                  const float d =
                      arena.mean[static_cast<std::size_t>(segment.offset + i)] - static_cast<float>(segment.prior_mean);
                  return static_cast<double>(d * d);
                }));
      EXPECT_EQ(sums[s].log_scale, 0.0);
    }
  }
}

TEST(Measure, SumsAreThoseOfTheDefinition) {
  Arena<float> arena(kOddSizes);
  auto arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  UpdateRule rule = example_rule(Rule::adam);
  rule.gradient_multiplier = 1;
  rule.cross_entropy_weight = rule.entropy_weight = 0;
  const auto sums = simd_kernels<float>(2)->measure(arena.segments, rule, arrays);
  for (std::size_t s = 0; s < sums.size(); ++s) {
    const Segment& segment = arena.segments[s];
    double log_scale = 0, magnitude = 0, deviation = 0, gradient = 0;
    for (std::int64_t i = 0; i < segment.count; ++i) {
      const auto at = static_cast<std::size_t>(segment.offset + i);
      const double g = arena.gradients[s][static_cast<std::size_t>(i)];
      deviation += std::pow(arena.mean[at] - segment.prior_mean, 2);
      gradient += g * g;
      if (!segment.gaussian) continue;
      const double raw = arena.raw_scale[at], scale = softplus(raw);
      log_scale += std::log(scale);
      magnitude += 1 + std::abs(std::log(scale));
      deviation += scale * scale;
      gradient += std::pow(g * standard_normal(kNoise, segment.offset + i) / (1 + std::exp(-raw)), 2);
    }
    // Each term has a relative error of some roundings to float; all are of one sign or bounded by `magnitude`.
    EXPECT_NEAR(sums[s].log_scale, log_scale, 4 * 6e-8 * magnitude) << s;
    EXPECT_NEAR(sums[s].squared_deviation, deviation, 8 * 6e-8 * deviation) << s;
    EXPECT_NEAR(sums[s].squared_gradient, gradient, 12 * 6e-8 * gradient) << s;
  }
}

TEST(Measure, NormsOfLarsAreThoseOfTheDefinition) {
  Arena<float> arena(kOddSizes);
  auto arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  UpdateRule rule = example_rule(Rule::lars);
  const auto others = simd_kernels<float>(1)->measure(arena.segments, example_rule(Rule::adam), arrays);
  rule.cross_entropy_weight = 0.0;
  rule.entropy_weight = 0.0;
  const auto sums = simd_kernels<float>(2)->measure(arena.segments, rule, arrays);
  for (std::size_t s = 0; s < sums.size(); ++s) {
    const Segment& segment = arena.segments[s];
    double mean = 0, gradient = 0, raw = 0;
    for (std::int64_t i = 0; i < segment.count; ++i) {
      const auto at = static_cast<std::size_t>(segment.offset + i);
      const double g = 0.25 * arena.gradients[s][static_cast<std::size_t>(i)];
      mean += std::pow(arena.mean[at], 2);
      gradient += g * g;
      if (!segment.gaussian) continue;
      raw += std::pow(g * standard_normal(kNoise, segment.offset + i) / (1 + std::exp(-arena.raw_scale[at])), 2);
    }
    EXPECT_NEAR(sums[s].squared_mean, mean, 4 * 6e-8 * mean) << s;
    EXPECT_NEAR(sums[s].squared_mean_gradient, gradient, 4 * 6e-8 * gradient) << s;
    EXPECT_NEAR(sums[s].squared_raw_gradient, raw, 12 * 6e-8 * raw) << s;
    EXPECT_EQ(others[s].squared_mean, 0.0);
  }
}

TEST(Measure, ChangesNothingAndEqualsUpdate) {
  Arena<float> arena(kSizes), before(kSizes);
  auto arrays = arena.update_arrays();
  arrays.noise = arrays.next_noise = &kNoise;
  arrays.next_weights = arena.weights.data();
  UpdateRule rule = example_rule(Rule::adam);
  rule.clip_multiplier = 1.0;
  const auto kernels = simd_kernels<float>(1);
  const auto measured = kernels->measure(arena.segments, rule, arrays);
  for (std::size_t a = 0; a < arena.arrays().size(); ++a) EXPECT_EQ(*arena.arrays()[a], *before.arrays()[a]);
  rule.clip_multiplier = 0.1;  // sums are those before clipping
  const auto updated = kernels->update(arena.segments, rule, arrays);
  EXPECT_NE(arena.mean, before.mean);
  for (std::size_t s = 0; s < measured.size(); ++s) {
    EXPECT_EQ(measured[s].log_scale, updated[s].log_scale);
    EXPECT_EQ(measured[s].squared_deviation, updated[s].squared_deviation);
    EXPECT_EQ(measured[s].squared_gradient, updated[s].squared_gradient);
  }
}

TEST(Update, NextDrawIsADrawOfTheNewPosterior) {
  const NoiseStream next{.seed = 5, .step = 3};
  Arena<float> arena(kOddSizes), drawn(kOddSizes);
  auto arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  arrays.next_noise = &next;
  arrays.next_weights = arena.weights.data();
  const auto kernels = simd_kernels<float>(2);
  kernels->update(arena.segments, example_rule(Rule::adam), arrays);
  kernels->draw(arena.segments, arena.mean.data(), arena.raw_scale.data(), next, drawn.weights.data());
  EXPECT_EQ(arena.weights, drawn.weights);
  arena.for_elements([&](std::size_t s, std::size_t at, std::size_t) {
    const double eps = arena.segments[s].gaussian ? standard_normal(next, static_cast<std::int64_t>(at)) : 0.0;
    const double scale = arena.segments[s].gaussian ? softplus(arena.raw_scale[at]) : 0.0;
    EXPECT_NEAR(arena.weights[at], arena.mean[at] + scale * eps,
                4 * 6e-8 * (std::abs(arena.mean[at]) + scale * std::abs(eps)));
  });
}

TEST(Update, OneSumEqualsTwoSumsOfOneDraw) {
  Arena<float> one(kOddSizes), two(kOddSizes);
  const auto kernels = simd_kernels<float>(2);
  std::vector<float> sum(one.mean.size());
  for (std::size_t s = 0; s < two.segments.size(); ++s) {
    kernels->accumulate(two.segments[s], two.gradients[s].data(), kNoise, false, sum.data(),
                        two.scaled_gradient.data());
  }
  auto one_arrays = one.update_arrays(), two_arrays = two.update_arrays();
  one_arrays.noise = &kNoise;
  two_arrays.scaled_gradient = two.scaled_gradient.data();
  kernels->update(one.segments, example_rule(Rule::adam), one_arrays);
  kernels->update(two.segments, example_rule(Rule::adam), two_arrays);
  EXPECT_EQ(one.mean, two.mean);
  EXPECT_EQ(one.raw_scale, two.raw_scale);
}

TEST(Kernels, RefuseBrokenCalls) {
  Arena<float> arena(kSizes);
  const auto kernels = simd_kernels<float>(1);
  EXPECT_THROW(simd_kernels<float>(0), UserError);
  auto arrays = arena.update_arrays();
  EXPECT_THROW(kernels->measure(arena.segments, {}, arrays), InternalError);  // neither noise nor a scaled gradient
  const NoiseStream bad_seed{.seed = ~std::uint64_t{0}};
  arrays.noise = &bad_seed;
  EXPECT_THROW(kernels->measure(arena.segments, {}, arrays), UserError);
  arrays.noise = &kNoise;
  EXPECT_NO_THROW(kernels->measure(arena.segments, {}, arrays));
  arena.segments[1].prior_scale = 0.0;
  EXPECT_THROW(kernels->measure(arena.segments, {}, arrays), UserError);
  arena.segments[1].prior_scale = 1.0;
  arena.segments[1].offset += 1;
  EXPECT_THROW(kernels->measure(arena.segments, {}, arrays), InternalError);
}

}  // namespace
}  // namespace credence::kernels::test
