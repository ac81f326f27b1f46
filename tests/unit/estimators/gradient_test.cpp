// Gradients of the objective through the whole path (draw, backward, sums, update) against central differences of the
// objective's definition.
#include <gmock/gmock.h>

#include "unit/estimators/cases.h"

namespace credence {
namespace {

using test::descend;
using test::Oracle;
using test::Problem;
using test::ProblemOptions;

struct Case {
  const char* name;
  ProblemOptions problem = {};
  int shards = 4;
  int samples = 1;
  NoiseSharing noise = NoiseSharing::shared;
  Objective objective = {.dataset_size = 20};
  std::int64_t step = 3;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  list.push_back({.name = "shared"});
  list.push_back({.name = "one_shard", .shards = 1});
  list.push_back({.name = "shared_samples", .shards = 2, .samples = 3});
  list.push_back({.name = "shard", .noise = NoiseSharing::shard});
  list.push_back({.name = "shard_samples", .samples = 2, .noise = NoiseSharing::shard});
  list.push_back({.name = "antithetic", .noise = NoiseSharing::antithetic});
  list.push_back({.name = "antithetic_samples", .samples = 2, .noise = NoiseSharing::antithetic});
  list.push_back({.name = "three_shards", .shards = 3, .noise = NoiseSharing::shard});
  list.push_back({.name = "bernoulli", .problem = {.likelihood = BernoulliLikelihood{2}}});
  list.push_back({.name = "gaussian", .problem = {.likelihood = GaussianLikelihood{0.4, 2}}});
  list.push_back({.name = "temperature", .objective = {.dataset_size = 20, .temperature = 0.3}});
  list.push_back({.name = "kl_weight", .objective = {.dataset_size = 20, .kl_weight = 0.2}});
  list.push_back({.name = "kl_warmup", .objective = {.dataset_size = 20, .warmup_steps = 10}});
  list.push_back({.name = "after_warmup", .objective = {.dataset_size = 20, .warmup_steps = 3}});
  list.push_back(
      {.name = "temperature_warmup", .objective = {.dataset_size = 20, .temperature = 0.3, .warmup_steps = 10}});
  list.push_back({.name = "batch_norm", .problem = {.network = "normalized"}, .noise = NoiseSharing::shard});
  list.push_back({.name = "mixed_families",
                  .problem = {.families = {"fc1=point"}, .priors = {"normal:fan-in", "fc2=normal:0.3"}}});
  list.push_back({.name = "point", .problem = {.families = {"point"}}});
  list.push_back({.name = "maximum_likelihood", .problem = {.families = {"point"}, .priors = {"none"}}});
  return list;
}

class Gradient : public ::testing::TestWithParam<Case> {};

constexpr double kDifference = 1e-5;
// Truncation h^2 f''' / 6 and rounding 1e-16 |f| / h of functions of order ten: 1e-9 each. A term of the prior that is
// missing or doubled is of the order of 1 / N.
constexpr double kTolerance = 1e-7;

TEST_P(Gradient, EqualsCentralDifferencesOfTheObjective) {
  const Case& c = GetParam();
  Problem problem(c.problem);
  const auto communicator = make_self_communicator();
  const ReparameterizedEstimator::Options options{
      .seed = 5, .shards = c.shards, .samples = c.samples, .noise = c.noise};
  Oracle oracle(problem, options, c.objective);
  const auto shards = test::examples_of(problem, c.shards, 4);
  torch::Tensor mean = problem.posterior.mean().clone();
  torch::Tensor raw = problem.posterior.has_gaussian() ? problem.posterior.raw_scale().clone() : torch::Tensor();

  ReparameterizedEstimator estimator(problem.parts(*communicator), options);
  const StepTotals totals = estimator.run(c.step, test::source_of(shards), {});
  const Optimizer::Result update =
      descend(problem.posterior, estimator.gradient(), c.objective, c.step, estimator.gradient_multiplier());

  const double nll = oracle.nll(c.step, mean, raw, shards);
  EXPECT_NEAR(totals.mean_nll, nll, 1e-12 * (1.0 + nll));
  const ObjectiveValue value = evaluate_objective(c.objective, c.objective.weights(c.step), totals.mean_nll,
                                                  problem.posterior.plan(), {update.sums, {}});
  const double n = static_cast<double>(c.objective.dataset_size);
  EXPECT_NEAR(value.objective / n, oracle.objective(c.step, mean, raw, shards), 1e-11);
  EXPECT_NEAR(value.expected_log_likelihood, -n * nll, 1e-10);
  if (problem.posterior.has_gaussian()) {
    const double kl = oracle.terms(mean, raw).kl;
    EXPECT_NEAR(value.kl, kl, 1e-11 * (1.0 + kl));
    EXPECT_NEAR(value.elbo, -n * nll - kl, 1e-10 * (1.0 + kl));  // whatever kl-weight and temperature are
  } else {
    EXPECT_TRUE(std::isnan(value.elbo));
  }

  double squares = 0.0;
  const auto check = [&](torch::Tensor& values, const torch::Tensor& after, std::int64_t i, const std::string& name) {
    double* at = values.data_ptr<double>() + i;
    const double old = *at;
    *at = old + kDifference;
    const double above = oracle.objective(c.step, mean, raw, shards);
    *at = old - kDifference;
    const double below = oracle.objective(c.step, mean, raw, shards);
    *at = old;
    const double expected = (above - below) / (2.0 * kDifference);
    const double gradient = old - after.data_ptr<double>()[i];
    EXPECT_NEAR(gradient, expected, kTolerance * (1.0 + std::abs(expected))) << name;
    squares += expected * expected;
  };
  const auto& slots = problem.network.layout().slots;
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    for (std::int64_t i = slots[slot].offset; i < slots[slot].offset + slots[slot].count; ++i) {
      const std::string where = slots[slot].name + " " + std::to_string(i - slots[slot].offset);
      check(mean, problem.posterior.mean(), i, where + " mean");
      if (problem.posterior.segments()[slot].gaussian)
        check(raw, problem.posterior.raw_scale(), i, where + " raw scale");
    }
  }
  EXPECT_NEAR(update.gradient_norm, std::sqrt(squares), 1e-5 * (1.0 + std::sqrt(squares)));
}

INSTANTIATE_TEST_SUITE_P(Cases, Gradient, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace credence
