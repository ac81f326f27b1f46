// IVON against the published package (tests/references/optimizers) and, where that has no counterpart, its formulas.
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"
#include "credence/optimizers/optimizer.h"
#include "unit/optimizers/posteriors.h"

namespace credence {
namespace {

using Numbers = std::vector<double>;

nlohmann::json reference() {
  std::ifstream file(CREDENCE_REFERENCES "/optimizers/ivon.json");
  return nlohmann::json::parse(file);
}

/// Weights 0 and 1 in one segment, 2 and 3 in another.
constexpr std::int64_t kElement[] = {0, 1, 64, 65};

torch::Tensor arena_of(const Numbers& values) {
  torch::Tensor arena = torch::zeros({128}, torch::kFloat64);
  for (std::size_t i = 0; i < values.size(); ++i) arena[kElement[i]] = values[i];
  return arena;
}

Numbers numbers_of(const torch::Tensor& arena) {
  Numbers values;
  for (const std::int64_t element : kElement) values.push_back(arena[element].item<double>());
  return values;
}

torch::Tensor state_of(const Optimizer& optimizer, const std::string& wanted) {
  for (const auto& [name, arena] : optimizer.state()) {
    if (name == wanted) return arena;
  }
  return {};
}

/// A run of the package, followed with our kernels from nothing but its noise.
class Follower {
 public:
  Follower(const nlohmann::json& problem, const nlohmann::json& example)
      : problem_(problem),
        case_(example),
        posterior_(test::posterior_over({{.offset = 0, .count = 2, .prior_scale = problem["prior_scales"][0]},
                                         {.offset = 64, .count = 2, .prior_scale = problem["prior_scales"][1]}},
                                        arena_of(problem["start"]))),
        optimizer_(posterior_, options()) {}

  void step(std::int64_t number) {
    const Numbers mean = numbers_of(posterior_.mean()), scale = numbers_of(posterior_.scales());
    Numbers sum(4), scaled(4);
    for (const auto& noise : case_["noise"][static_cast<std::size_t>(number)]) {
      for (std::size_t i = 0; i < 4; ++i) {
        const double eps = noise[i], weight = mean[i] + scale[i] * eps;
        const double gradient =
            value("curvature", i) * (weight - value("target", i)) + value("quartic", i) * weight * weight * weight;
        sum[i] += gradient;
        scaled[i] += eps * gradient;
      }
    }
    GradientSum gradients;
    const torch::Tensor slots = arena_of(sum);
    gradients.slots = {slots.narrow(0, 0, 2), slots.narrow(0, 64, 2)};
    gradients.scaled = arena_of(scaled);
    const double decay = case_["decay"], samples = case_["samples"];
    optimizer_.step(gradients, {.number = number,
                                .learning_rate_factor = 1.0 / (1.0 + decay * static_cast<double>(number)),
                                .gradient_multiplier = 1.0 / samples,
                                .weights = objective().weights(number),
                                .dataset_size = problem_["examples"],
                                .next_draw = std::nullopt});
  }

  void expect_state(std::size_t number, double tolerance) {
    const auto& expected = case_["states"][number];
    const double examples = problem_["examples"], temperature = case_["temperature"];
    const Numbers hessian = numbers_of(state_of(optimizer_, "scale_hessian"));
    const Numbers momentum = numbers_of(state_of(optimizer_, "mean_momentum"));
    const Numbers mean = numbers_of(posterior_.mean()), scale = numbers_of(posterior_.scales());
    for (std::size_t i = 0; i < 4; ++i) {
      const double h = expected["hessian"][i], m = expected["mean"][i], g = expected["momentum"][i];
      const double prior = problem_["prior_scales"][i / 2];
      const double variance = temperature / (examples * (h + 1.0 / (examples * prior * prior)));
      ASSERT_NEAR(mean[i], m, tolerance) << "step " << number << ", mean " << i;
      ASSERT_NEAR(hessian[i], h, tolerance * (1.0 + std::abs(h))) << "step " << number << ", Hessian " << i;
      ASSERT_NEAR(momentum[i], g, tolerance) << "step " << number << ", momentum " << i;
      ASSERT_NEAR(scale[i], std::sqrt(variance), tolerance * scale[i]) << "step " << number << ", scale " << i;
    }
  }

 private:
  double value(const char* name, std::size_t i) const { return problem_[name][i]; }
  Objective objective() const { return {.dataset_size = problem_["examples"], .temperature = case_["temperature"]}; }
  OptimizerOptions options() const {
    OptimizerOptions options{.rule = kernels::Rule::ivon,
                             .learning_rate = case_["lr"],
                             .beta1 = case_["beta1"],
                             .beta2 = case_["beta2"],
                             .clip_norm = {},
                             .hess_init = case_["hess_init"],
                             .objective = objective()};
    if (!case_["clip_radius"].is_null()) options.clip_radius = case_["clip_radius"];
    return options;
  }

  const nlohmann::json& problem_;
  const nlohmann::json& case_;
  Posterior posterior_;
  Optimizer optimizer_;
};

TEST(Ivon, FollowsThePublishedPackage) {
  // About 20 roundings of 2^-53 a step in each of four quantities, which feed one another; h + d is at least 0.005, so
  // that a relative error is at most 200 times one of h. Losses that pull together forget errors over tens of steps.
  constexpr double kTolerance = 50 * 20 * 200 * 1.2e-16;
  const nlohmann::json problem = reference();
  ASSERT_EQ(problem["cases"].size(), 3U);
  for (const auto& example : problem["cases"]) {
    Follower follower(problem, example);
    for (std::size_t step = 0; step < example["states"].size(); ++step) {
      follower.step(static_cast<std::int64_t>(step));
      follower.expect_state(step, kTolerance);
    }
  }
}

constexpr double kPrior = 0.7;
constexpr std::int64_t kExamples = 40;

/// A Gaussian weight at 0.6 and a point estimate at -0.9, each with a prior around a value of its own.
struct Pair {
  explicit Pair(OptimizerOptions options)
      : posterior(test::posterior_over(
            {{.offset = 0, .count = 1, .prior_mean = 0.2, .prior_scale = kPrior},
             {.offset = 64, .count = 1, .gaussian = false, .prior_mean = -0.3, .prior_scale = 2.0 * kPrior}},
            torch::full({128}, 0.6, torch::kFloat64))) {
    torch::Tensor mean = posterior.mean();
    mean[64] = -0.9;
    options.rule = kernels::Rule::ivon;
    options.objective = objective;
    optimizer.emplace(posterior, options);
  }

  void step(std::int64_t number, double gradient, double scaled, double point) {
    GradientSum sums;
    sums.slots = {torch::tensor({gradient}, torch::kFloat64), torch::tensor({point}, torch::kFloat64)};
    sums.scaled = torch::full({128}, scaled, torch::kFloat64);
    optimizer->step(sums, {.number = number,
                           .gradient_multiplier = 0.5,
                           .weights = objective.weights(number),
                           .dataset_size = kExamples,
                           .next_draw = std::nullopt});
  }
  double mean() const { return posterior.mean()[0].item<double>(); }
  double point() const { return posterior.mean()[64].item<double>(); }
  double scale() { return posterior.scales()[0].item<double>(); }

  Objective objective{.dataset_size = kExamples, .kl_weight = 0.8, .warmup_steps = 4};
  Posterior posterior;
  std::optional<Optimizer> optimizer;
};

TEST(Ivon, RespectsPriorMeansAndTheWarmUpOfTheKl) {
  Pair pair({.learning_rate = 0.3, .beta1 = 0.7, .beta2 = 0.95, .clip_norm = {}, .hess_init = 0.4});
  double mean = 0.6, momentum = 0.0, hessian = 0.4,
         scale = std::sqrt(0.2 / (kExamples * 0.4 + 0.2 / (kPrior * kPrior)));
  EXPECT_NEAR(pair.scale(), scale, 1e-15);
  for (int t = 1; t <= 6; ++t) {
    const double gradient = std::sin(t), scaled = 0.1 * std::cos(2.0 * t);
    const double weight = 0.8 * std::min(t / 4.0, 1.0);  // of KL
    const double decay = weight / (kExamples * kPrior * kPrior);
    const double estimate = 0.5 * scaled / scale;
    hessian = 0.95 * hessian + 0.05 * estimate + 0.5 * std::pow(0.05 * (hessian - estimate), 2) / (hessian + decay);
    momentum = 0.7 * momentum + 0.3 * 0.5 * gradient;
    mean -= 0.3 * (0.4 + decay) * (momentum / (1.0 - std::pow(0.7, t)) + decay * (mean - 0.2)) / (hessian + decay);
    scale = std::sqrt(weight / (kExamples * (hessian + decay)));
    pair.step(t - 1, gradient, scaled, 0.0);
    EXPECT_NEAR(pair.mean(), mean, 1e-13) << t;
    EXPECT_NEAR(pair.scale(), scale, 1e-13) << t;
  }
}

TEST(Ivon, PointEstimatesKeepTheFirstHessian) {
  for (const double radius : {1e9, 0.05}) {
    Pair pair({.learning_rate = 0.3, .beta1 = 0.7, .clip_norm = {}, .hess_init = 0.4, .clip_radius = radius});
    double point = -0.9, momentum = 0.0;
    for (int t = 1; t <= 6; ++t) {
      const double decay = 0.8 * std::min(t / 4.0, 1.0) / (kExamples * 4.0 * kPrior * kPrior);
      momentum = 0.7 * momentum + 0.3 * 0.5 * std::sin(t);
      const double step = (momentum / (1.0 - std::pow(0.7, t)) + decay * (point + 0.3)) / (0.4 + decay);
      point -= 0.3 * (0.4 + decay) * std::clamp(step, -radius, radius);
      pair.step(t - 1, 0.0, 0.0, std::sin(t));
      EXPECT_NEAR(pair.point(), point, 1e-14) << t;
    }
  }
}

TEST(Ivon, ScalesStayFiniteWhateverTheHessianEstimateIs) {
  for (const double scaled : {-1e6, 1e6}) {
    Pair pair({.learning_rate = 0.1, .beta2 = 0.9, .clip_norm = {}});
    for (int t = 0; t < 60; ++t) pair.step(t, 0.1, scaled, 0.0);
    EXPECT_TRUE(std::isfinite(pair.mean()));
    EXPECT_GT(pair.scale(), 0.0);
    EXPECT_LE(pair.scale(), 1025.0 * kPrior);  // of the prior's standard deviation, where nothing is learned
  }
}

/// Eight weights under a prior with a mean and a scale for each, at rest there; no likelihood.
struct Informed {
  explicit Informed(const Objective& chosen, bool given = true) : objective(chosen) {
    tensors->emplace("tensor0", InformedTensor{torch::zeros({8}, torch::kFloat64), prior_scales, {}});
    PosteriorPlan plan = test::plan_over({{.offset = 0, .count = 8}}, 64);
    plan.priors[0] = InformedPrior{tensors, kInflate, "checkpoint:x"};
    posterior.emplace(std::move(plan), torch::zeros({64}, torch::kFloat64), 0.2, 1);
    posterior->raw_scale().narrow(0, 0, 8).copy_(torch::log(torch::expm1(prior_scales)));
    OptimizerOptions options{.rule = kernels::Rule::ivon, .learning_rate = 0.0, .beta2 = 0.9, .objective = objective};
    if (given) options.given_scales = {0};
    optimizer.emplace(*posterior, options);
  }
  torch::Tensor scales() { return posterior->scales().narrow(0, 0, 8); }
  torch::Tensor hessian() const { return optimizer->state()[1].second.narrow(0, 0, 8); }
  /// The prior's gradient as complexity terms add it to the likelihood's: E[-log p] has the slope scale / variance.
  void step(std::int64_t number, double likelihood_hessian) {
    const Objective::Weights weights = objective.weights(number);
    const double weight = weights.cross_entropy / kExamples;
    GradientSum sums;
    sums.slots = {torch::zeros({8}, torch::kFloat64)};
    sums.scaled = torch::zeros({64}, torch::kFloat64);
    sums.scaled.narrow(0, 0, 8).copy_(scales() * (likelihood_hessian + weight / (kInflate * prior_scales).square()));
    optimizer->step(sums, {.number = number, .weights = weights, .dataset_size = kExamples, .next_draw = std::nullopt});
  }

  static constexpr double kInflate = 2.0;
  Objective objective;
  torch::Tensor prior_scales = torch::logspace(-2, 0, 8, 10, torch::kFloat64);
  std::shared_ptr<std::map<std::string, InformedTensor>> tensors =
      std::make_shared<std::map<std::string, InformedTensor>>();
  std::optional<Posterior> posterior;
  std::optional<Optimizer> optimizer;
};

TEST(Ivon, StartsAtTheScalesThatAPriorOrAFileGave) {
  Informed informed({.dataset_size = kExamples});
  EXPECT_TRUE(torch::allclose(informed.scales(), informed.prior_scales, 1e-12, 0.0));
  // 1 / (N s^2) less the weight decay 1 / (N (k s)^2)
  const torch::Tensor expected = 0.75 / (kExamples * informed.prior_scales.square());
  EXPECT_TRUE(torch::allclose(informed.hessian(), expected, 1e-12, 0.0));
  Informed usual({.dataset_size = kExamples}, false);
  EXPECT_TRUE(torch::equal(usual.hessian(), torch::full({8}, 0.1, torch::kFloat64)));
}

TEST(Ivon, FollowsTheWeightDecayOfEachWeightThroughTheWarmUp) {
  Informed informed({.dataset_size = kExamples, .warmup_steps = 4});
  torch::Tensor hessian = informed.hessian().clone();
  // With the weight decay of the first step the precision is that of the given scales.
  const torch::Tensor first = 0.25 / (kExamples * (Informed::kInflate * informed.prior_scales).square());
  EXPECT_TRUE(torch::allclose(hessian + first, 1.0 / (kExamples * informed.prior_scales.square()), 1e-12, 0.0));
  for (std::int64_t t = 0; t < 8; ++t) {
    const double weight = std::min((static_cast<double>(t) + 1.0) / 4.0, 1.0) / kExamples;
    const torch::Tensor decay = weight / (Informed::kInflate * informed.prior_scales).square();
    hessian = 0.9 * hessian + 0.1 * 0.3 + 0.5 * (0.1 * (hessian - 0.3)).square() / (hessian + decay);
    informed.step(t, 0.3);
    EXPECT_TRUE(torch::allclose(informed.hessian(), hessian, 1e-9, 0.0)) << t;
    EXPECT_TRUE(torch::allclose(informed.scales(), (weight / (hessian + decay)).sqrt(), 1e-9, 0.0)) << t;
  }
}

TEST(Ivon, RefusesPriorsThatAreNotGaussian) {
  PosteriorPlan plan = test::plan_over({{.offset = 0, .count = 8}}, 64);
  plan.priors[0] = StudentTPrior{};
  Posterior posterior(std::move(plan), torch::zeros({64}, torch::kFloat64), 0.2, 1);
  EXPECT_THROW(Optimizer(posterior, {.rule = kernels::Rule::ivon}), UserError);
}

TEST(Ivon, RefusesWhatItCannotDo) {
  EXPECT_THROW(Pair({.clip_norm = 1.0}), UserError);
  EXPECT_THROW(Pair({.clip_norm = {}, .hess_init = 0.0}), UserError);
  EXPECT_THROW(Pair({.clip_norm = {}, .clip_radius = 0.0}), UserError);
  const torch::Tensor zeros = torch::zeros({64}, torch::kFloat64);
  Posterior point = test::posterior_over({{.offset = 0, .count = 3, .gaussian = false}}, zeros);
  EXPECT_THROW(Optimizer(point, {.rule = kernels::Rule::ivon, .clip_norm = {}}), UserError);
  Posterior gaussian = test::posterior_over({{.offset = 0, .count = 3, .prior_scale = 1.0}}, zeros);
  EXPECT_THROW(Optimizer(gaussian, {.rule = kernels::Rule::ivon, .clip_norm = {}, .objective = {.temperature = 0.0}}),
               UserError);
}

}  // namespace
}  // namespace credence
