// Updates of (mean, raw scale) against the papers' formulas in double, clipping, and the next draw.
#include "credence/optimizers/optimizer.h"

#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"
#include "unit/optimizers/posteriors.h"

namespace credence {
namespace {

constexpr double kPrior = 0.7;
constexpr std::int64_t kExamples = 50;

/// Three weights and a point estimate of two, in double.
struct Fixture {
  explicit Fixture(const OptimizerOptions& options, torch::Dtype dtype = torch::kFloat64)
      : posterior(test::posterior_over({{.offset = 0, .count = 3, .gaussian = true, .prior_scale = kPrior},
                                        {.offset = 64, .count = 2, .gaussian = false, .prior_scale = kPrior}},
                                       torch::cos(torch::arange(128, torch::kFloat64)).to(dtype))),
        optimizer(posterior, options) {}

  GradientSum gradient(std::int64_t step) const {
    GradientSum sum;
    const auto wave = [&](std::int64_t count, double rate) {
      return torch::sin(rate * (torch::arange(count, torch::kFloat64) + 1.0) * static_cast<double>(step + 1))
          .to(posterior.mean().scalar_type());
    };
    sum.slots = {wave(3, 0.7), wave(2, 1.3)};
    sum.scaled = wave(128, 1.9);
    return sum;
  }

  static Optimizer::Step at(std::int64_t step, double factor = 1.0) {
    return {.number = step,
            .learning_rate_factor = factor,
            .gradient_multiplier = 0.5,
            .weights = {.cross_entropy = 0.9, .entropy = 0.4},
            .dataset_size = kExamples,
            .next_draw = std::nullopt};
  }

  Posterior posterior;
  Optimizer optimizer;
};

/// d objective / d (mean, raw scale) from its definition: 0.5 * sums + (0.9 E[-log p] - 0.4 H) / N.
struct Derivatives {
  std::vector<double> mean, raw;
  Derivatives(const Fixture& f, const GradientSum& gradient) {
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::int64_t at = i < 3 ? i : 64 + i - 3;
      const double m = f.posterior.mean()[at].item<double>();
      const double g = i < 3 ? gradient.slots[0][i].item<double>() : gradient.slots[1][i - 3].item<double>();
      mean.push_back(0.5 * g + 0.9 * m / (kPrior * kPrior) / kExamples);
      if (i >= 3) continue;
      const double r = f.posterior.raw_scale()[at].item<double>();
      const double s = std::log1p(std::exp(r));
      const double slope = 1.0 / (1.0 + std::exp(-r));
      const double by_scale =
          0.5 * gradient.scaled[at].item<double>() + (0.9 * s / (kPrior * kPrior) - 0.4 / s) / kExamples;
      raw.push_back(by_scale * slope);
    }
  }
  double norm() const {
    double squares = 0.0;
    for (const double g : mean) squares += g * g;
    for (const double g : raw) squares += g * g;
    return std::sqrt(squares);
  }
};

std::vector<double> means_of(const Fixture& f) {
  std::vector<double> values;
  for (const std::int64_t i : {0, 1, 2, 64, 65}) values.push_back(f.posterior.mean()[i].item<double>());
  return values;
}
std::vector<double> raws_of(const Fixture& f) {
  std::vector<double> values;
  for (const std::int64_t i : {0, 1, 2}) values.push_back(f.posterior.raw_scale()[i].item<double>());
  return values;
}

/// Kingma and Ba 2015, algorithm 1.
struct Adam {
  double rate, beta1, beta2, epsilon;
  std::vector<double> first = std::vector<double>(5), second = std::vector<double>(5);
  void step(std::vector<double>& values, const std::vector<double>& gradient, int t, double factor) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      first[i] = beta1 * first[i] + (1 - beta1) * gradient[i];
      second[i] = beta2 * second[i] + (1 - beta2) * gradient[i] * gradient[i];
      const double m = first[i] / (1 - std::pow(beta1, t));
      const double v = second[i] / (1 - std::pow(beta2, t));
      values[i] -= rate * factor * m / (std::sqrt(v) + epsilon);
    }
  }
};

TEST(Adam, FollowsThePaperWithARateOfItsOwnForScales) {
  Fixture f({.learning_rate = 0.1,
             .scale_learning_rate = 0.02,
             .beta1 = 0.8,
             .beta2 = 0.95,
             .epsilon = 1e-3,
             .clip_norm = {}});
  Adam for_means{0.1, 0.8, 0.95, 1e-3}, for_scales{0.02, 0.8, 0.95, 1e-3};
  std::vector<double> means = means_of(f), raws = raws_of(f);
  for (int t = 1; t <= 6; ++t) {
    const double factor = 1.0 / t;
    const GradientSum gradient = f.gradient(t - 1);
    const Derivatives d(f, gradient);
    for_means.step(means, d.mean, t, factor);
    for_scales.step(raws, d.raw, t, factor);
    const auto result = f.optimizer.step(gradient, Fixture::at(t - 1, factor));
    EXPECT_NEAR(result.gradient_norm, d.norm(), 1e-13);
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(means_of(f)[i], means[i], 1e-12) << t;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(raws_of(f)[i], raws[i], 1e-12) << t;
  }
  EXPECT_EQ(f.optimizer.state().size(), 4U);
}

TEST(Sgd, HasHeavyBallMomentum) {
  Fixture f(
      {.rule = kernels::Rule::sgd, .learning_rate = 0.1, .scale_learning_rate = 0.02, .beta1 = 0.7, .clip_norm = {}});
  std::vector<double> means = means_of(f), raws = raws_of(f), mean_momentum(5), raw_momentum(3);
  for (int t = 1; t <= 5; ++t) {
    const GradientSum gradient = f.gradient(t - 1);
    const Derivatives d(f, gradient);
    for (std::size_t i = 0; i < 5; ++i) means[i] -= 0.1 * (mean_momentum[i] = 0.7 * mean_momentum[i] + d.mean[i]);
    for (std::size_t i = 0; i < 3; ++i) raws[i] -= 0.02 * (raw_momentum[i] = 0.7 * raw_momentum[i] + d.raw[i]);
    f.optimizer.step(gradient, Fixture::at(t - 1));
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(means_of(f)[i], means[i], 1e-13) << t;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(raws_of(f)[i], raws[i], 1e-13) << t;
  }
  EXPECT_EQ(f.optimizer.state().size(), 2U);
}

TEST(Clipping, MakesTheGlobalNormTheLimit) {
  for (const double share : {0.01, 0.5, 0.999, 1.001, 100.0}) {
    Fixture unclipped({.rule = kernels::Rule::sgd, .clip_norm = {}});
    const GradientSum gradient = unclipped.gradient(0);
    const Derivatives d(unclipped, gradient);
    const double limit = share * d.norm();
    Fixture f({.rule = kernels::Rule::sgd,
               .learning_rate = 1.0,
               .scale_learning_rate = 1.0,
               .beta1 = 0.0,
               .clip_norm = limit});
    const auto means = means_of(f), raws = raws_of(f);
    const auto result = f.optimizer.step(gradient, Fixture::at(0));
    double squares = 0.0, along = 0.0;
    for (std::size_t i = 0; i < 5; ++i) squares += std::pow(means[i] - means_of(f)[i], 2);
    for (std::size_t i = 0; i < 3; ++i) squares += std::pow(raws[i] - raws_of(f)[i], 2);
    for (std::size_t i = 0; i < 5; ++i) along += (means[i] - means_of(f)[i]) * d.mean[i];
    for (std::size_t i = 0; i < 3; ++i) along += (raws[i] - raws_of(f)[i]) * d.raw[i];
    EXPECT_NEAR(std::sqrt(squares), std::min(limit, d.norm()), 1e-13) << share;
    EXPECT_NEAR(along, std::sqrt(squares) * d.norm(), 1e-12) << share;  // the same direction
    EXPECT_NEAR(result.gradient_norm, d.norm(), 1e-13) << share;        // as it was before clipping
  }
}

TEST(Optimizer, NextDrawIsTheDrawOfTheNewValues) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    Fixture f({}, dtype);
    auto step = Fixture::at(0);
    const kernels::NoiseStream noise{.seed = 8, .step = 1};
    step.next_draw = noise;
    f.optimizer.step(f.gradient(0), step);
    const torch::Tensor written = f.posterior.weights().clone();
    f.posterior.set_drawn(std::nullopt);
    f.posterior.draw(noise);
    const auto used = [](const torch::Tensor& arena) {
      return torch::cat({arena.narrow(0, 0, 3), arena.narrow(0, 64, 2)});
    };
    EXPECT_TRUE(torch::equal(used(written), used(f.posterior.weights())));
    EXPECT_FALSE(torch::equal(used(written), used(f.posterior.mean())));
  }
}

TEST(Optimizer, ForgetsTheDrawWhenNoneFollows) {
  Fixture f({});
  const kernels::NoiseStream noise{.seed = 8, .step = 1};
  f.posterior.draw(noise);
  const torch::Tensor before = f.posterior.weights().clone();
  f.optimizer.step(f.gradient(0), Fixture::at(0));
  f.posterior.draw(noise);
  EXPECT_FALSE(torch::equal(before, f.posterior.weights()));
}

TEST(Optimizer, RefusesNegativeRates) {
  EXPECT_THROW(Fixture({.learning_rate = -1.0, .clip_norm = {}}), UserError);
  EXPECT_THROW(Fixture({.scale_learning_rate = -1.0, .clip_norm = {}}), UserError);
}

}  // namespace
}  // namespace credence
