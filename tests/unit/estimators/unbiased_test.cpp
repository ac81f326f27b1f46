// Every estimator's gradient has the exact ELBO's gradient as its mean: Bayesian linear regression, where the expected
// loss is known in closed form, away from the optimum.
#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "unit/estimators/linear_regression.h"

namespace credence {
namespace {

using test::kExamples;
using test::kInputs;
using test::Regression;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Case {
  const char* name;
  const char* estimator;
  int shards = 1;
  int samples = 1;
  NoiseSharing noise = NoiseSharing::shared;
  int draws = 6000;  // steps
};

/// Mean and standard error of a gradient over independent steps.
struct Average {
  torch::Tensor mean, error;
};

template <class Step>
Average average_of(int steps, const Step& step) {
  torch::Tensor sum, squares;
  for (int i = 0; i < steps; ++i) {
    const torch::Tensor value = step(i);
    sum = sum.defined() ? sum + value : value;
    squares = squares.defined() ? squares + value.square() : value.square();
  }
  const torch::Tensor mean = sum / steps;
  return {mean, torch::sqrt((squares / steps - mean.square()) / steps)};
}

/// dL/dmean and dL/dscale of the network's elements, per example.
torch::Tensor gradient_of(const Posterior& posterior, const Estimator& estimator, const GradientSum& gradient) {
  std::vector<torch::Tensor> parts;
  for (const torch::Tensor& slot : gradient.slots) parts.push_back(slot.flatten());
  for (const auto& segment : posterior.segments())
    parts.push_back(gradient.scaled.narrow(0, segment.offset, segment.count));
  return torch::cat(parts) * estimator.gradient_multiplier();
}

class Unbiased : public ::testing::TestWithParam<Case> {};

TEST_P(Unbiased, AgainstTheExactBound) {
  const Case& c = GetParam();
  Regression r;
  const torch::Tensor mean = r.exact.mean + 0.3 * test::waves({kInputs + 1}, 1.7);
  const torch::Tensor scale = 0.2 + 0.1 * test::waves({kInputs + 1}, 0.6);
  const torch::Tensor raw = torch::log(torch::expm1(scale));
  const auto communicator = make_self_communicator();
  const auto estimator = test::make_estimator(c.estimator, r.problem.parts(*communicator),
                                              {.seed = 77, .shards = c.shards, .samples = c.samples, .noise = c.noise});
  std::vector<Examples> shards;
  const std::int64_t size = kExamples / c.shards;
  for (int shard = 0; shard < c.shards; ++shard) {
    shards.push_back(
        {r.batch[0].inputs.narrow(0, shard * size, size), r.batch[0].targets.narrow(0, shard * size, size)});
  }
  const Average average = average_of(c.draws, [&](int step) {
    r.put(r.problem.posterior.mean(), mean);
    r.put(r.problem.posterior.raw_scale(), raw);
    r.problem.posterior.set_drawn(std::nullopt);
    estimator->run(step, test::source_of(shards), {});
    test::descend(r.problem.posterior, estimator->gradient(), r.objective, step, estimator->gradient_multiplier());
    return torch::cat(
        {mean - r.gathered(r.problem.posterior.mean()), raw - r.gathered(r.problem.posterior.raw_scale())});
  });

  torch::Tensor exact = torch::empty({2 * (kInputs + 1)}, torch::kFloat64);
  constexpr double kDifference = 1e-5;
  const auto elbo = [&](std::int64_t i, double change) {
    torch::Tensor moved = torch::cat({mean, raw});
    moved[i] += change;
    return r.exact.elbo(moved.narrow(0, 0, kInputs + 1), torch::softplus(moved.narrow(0, kInputs + 1, kInputs + 1)));
  };
  for (std::int64_t i = 0; i < exact.numel(); ++i)
    exact[i] = -(elbo(i, kDifference) - elbo(i, -kDifference)) / (2.0 * kDifference * kExamples);

  // Eight values of each of the cases: one beyond 4.5 standard errors is a chance of 1e-3 over all of them.
  EXPECT_LT(((average.mean - exact) / average.error).abs().max().item<double>(), 4.5)
      << average.mean << exact << average.error;
  // A gradient that is a tenth too long would be seen.
  EXPECT_LT(4.5 * average.error.norm().item<double>(), 0.1 * exact.norm().item<double>());
}

INSTANTIATE_TEST_SUITE_P(
    Estimators, Unbiased,
    ::testing::Values(
        Case{.name = "reparam", .estimator = "reparam"},
        Case{.name = "reparam_antithetic", .estimator = "reparam", .shards = 2, .noise = NoiseSharing::antithetic},
        Case{.name = "flipout", .estimator = "flipout"},
        Case{.name = "flipout_shards", .estimator = "flipout", .shards = 4, .noise = NoiseSharing::shard},
        Case{.name = "local_reparam", .estimator = "local-reparam"},
        Case{.name = "score", .estimator = "score", .samples = 16},
        Case{.name = "score_shard", .estimator = "score", .shards = 4, .samples = 16, .noise = NoiseSharing::shard},
        Case{.name = "score_antithetic",
             .estimator = "score",
             .shards = 2,
             .samples = 8,
             .noise = NoiseSharing::antithetic}),
    [](const auto& test) { return std::string(test.param.name); });

/// One weight, N(0, 1), and one observation 1.4 of it with noise 1: the expected loss 1/2 (1 + 1.4^2) + constant has
/// the gradient (-1.4, 1.0).
struct OneWeight {
  OneWeight() {
    posterior.mean().zero_();
    torch::Tensor raw = posterior.raw_scale();
    raw.fill_(kernels::inverse_softplus(1.0));
    posterior.set_drawn(std::nullopt);
  }
  Estimator::Parts parts() {
    return {.network = network, .posterior = posterior, .likelihood = likelihood, .communicator = *communicator};
  }
  std::unique_ptr<Communicator> communicator = make_self_communicator();
  Likelihood likelihood = GaussianLikelihood{1.0, 1};
  Network network{test::module_of("linear:nobias", 1, 1), torch::kFloat64};
  Posterior posterior{plan_posterior(network.layout(), parse_families({}), parse_priors({})), network.values(), 1.0, 1};
  Examples example{torch::ones({1, 1}, torch::kFloat64), torch::full({1, 1}, 1.4, torch::kFloat64)};
};

TEST(ScoreFunction, LeavesTheAntitheticPairOutOfTheBaseline) {
  OneWeight one;
  ScoreEstimator estimator(one.parts(), {.seed = 3, .shards = 2, .samples = 2, .noise = NoiseSharing::antithetic});
  const std::vector<Examples> shards = {one.example, one.example};
  // The baseline of the partner, by its formula, from the same noise.
  const auto loss = [](double w) { return 0.5 * (w - 1.4) * (w - 1.4); };
  double of_mean = 0.0, of_scale = 0.0;
  constexpr int kSteps = 40'000;
  const Average average = average_of(kSteps, [&](int step) {
    estimator.run(step, test::source_of(shards), {});
    const kernels::NoiseStream noise{.seed = 3, .step = static_cast<std::uint32_t>(step)};
    const double eps = static_cast<double>(kernels::standard_normal(noise, 0));
    const double difference = loss(eps) - loss(-eps);
    of_mean += 0.5 * (difference * eps - difference * -eps) / kSteps;
    of_scale += 0.5 * (difference - difference) * (eps * eps - 1.0) / kSteps;
    return gradient_of(one.posterior, estimator, estimator.gradient());
  });
  const torch::Tensor exact = torch::tensor({-1.4, 1.0}, torch::kFloat64);
  EXPECT_LT(((average.mean - exact) / average.error).abs().max().item<double>(), 4.0) << average.mean;
  EXPECT_LT(average.error.max().item<double>(), 0.05);
  EXPECT_NEAR(of_mean, -2.8, 0.1);
  EXPECT_EQ(of_scale, 0.0);
}

TEST(ScoreFunction, IsTheFormulaForGivenDraws) {
  OneWeight one;
  ScoreEstimator estimator(one.parts(), {.seed = 3, .samples = 3});
  const std::vector<Examples> shards = {one.example};
  estimator.run(9, test::source_of(shards), {});
  double eps[3], losses[3], mean = 0.0, scale = 0.0;
  for (std::uint32_t s = 0; s < 3; ++s) {
    eps[s] = static_cast<double>(kernels::standard_normal({.seed = 3, .step = 9, .sample = s}, 0));
    losses[s] = 0.5 * (eps[s] - 1.4) * (eps[s] - 1.4);
  }
  for (int s = 0; s < 3; ++s) {
    const double advantage = losses[s] - 0.5 * (losses[(s + 1) % 3] + losses[(s + 2) % 3]);
    mean += advantage * eps[s] / 3.0;
    scale += advantage * (eps[s] * eps[s] - 1.0) / 3.0;
  }
  const torch::Tensor gradient = gradient_of(one.posterior, estimator, estimator.gradient());
  EXPECT_NEAR(gradient[0].item<double>(), mean, 1e-12);
  EXPECT_NEAR(gradient[1].item<double>(), scale, 1e-12);
}

TEST(ScoreRefusals, NameTheWayOut) {
  const auto communicator = make_self_communicator();
  const auto make = [&](test::Problem& problem, const Estimator::Options& options) {
    return ScoreEstimator(problem.parts(*communicator), options).local_shards();
  };
  test::Problem small;
  EXPECT_THAT([&] { make(small, {.samples = 1}); }, ThrowsMessage<UserError>(HasSubstr("--weight-samples is 1")));
  EXPECT_EQ(make(small, {.samples = 2}), 1);
  test::Problem mixed({.families = {"mean-field", "fc2=point"}});
  EXPECT_THAT([&] { make(mixed, {.samples = 4}); },
              ThrowsMessage<UserError>(HasSubstr("--posterior 'fc2.weight=mean-field'")));
  test::Problem large({.network = "mlp:300", .inputs = 100});  // 31,203 weights
  EXPECT_THAT([&] { make(large, {.shards = 2, .samples = 3}); },
              ThrowsMessage<UserError>(HasSubstr("--weight-samples 4 or more")));
  EXPECT_EQ(make(large, {.shards = 2, .samples = 4}), 2);
  EXPECT_EQ(make(large, {.shards = 2, .samples = 2, .noise = NoiseSharing::shard}), 2);
}

}  // namespace
}  // namespace credence
