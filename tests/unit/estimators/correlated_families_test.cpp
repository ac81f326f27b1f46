// Families with correlated weights on a problem whose posterior and evidence are known.
#include <gmock/gmock.h>

#include "unit/estimators/family_laws.h"
#include "unit/estimators/linear_regression.h"

namespace credence {
namespace {

using test::kExamples;
using test::kNoise;
using test::Regression;

void train(Regression& r, std::int64_t steps) {
  const auto communicator = make_self_communicator();
  ReparameterizedEstimator estimator(r.problem.parts(*communicator), {.seed = 1, .samples = 4});
  Optimizer optimizer(r.problem.posterior, {.learning_rate = 0.03, .scale_learning_rate = 0.03});
  const double weight = 1.0 / static_cast<double>(kExamples);
  for (std::int64_t step = 0; step < steps; ++step) {
    estimator.run(step, test::source_of(r.batch), {}, weight);
    GradientSum gradient = estimator.gradient();
    add_closed_form_terms(r.problem.posterior, {weight, weight}, estimator.gradient_multiplier(), gradient);
    const double progress = static_cast<double>(step) / static_cast<double>(steps);
    optimizer.step(gradient, {.number = step,
                              .learning_rate_factor = 0.5 * (1.0 + std::cos(std::numbers::pi * progress)),
                              .gradient_multiplier = estimator.gradient_multiplier(),
                              .weights = {},
                              .dataset_size = kExamples,
                              .next_draw = estimator.first_draw(step + 1)});
  }
}

double reported_kl(Regression& r) {
  return evaluate_objective(r.objective, {}, 0.0, r.problem.posterior.plan(),
                            measure_complexity(r.problem.posterior, {}))
      .kl;
}

class CorrelatedFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(CorrelatedFamily, ReachesTheExactPosteriorAndEvidence) {
  Regression r({GetParam()});
  train(r, 6000);
  const torch::Tensor mean = r.gathered(r.problem.posterior.mean());
  const torch::Tensor covariance = test::ClaimedCovariance(r.problem.posterior).matrix();
  const double kl = reported_kl(r);
  const double n = static_cast<double>(mean.numel());
  const double exact_kl =
      0.5 * (covariance.trace() + mean.square().sum() - n - torch::logdet(covariance)).item<double>();
  EXPECT_NEAR(kl, exact_kl, 1e-9 * (1.0 + exact_kl));
  const double variance = kNoise * kNoise;
  const torch::Tensor& x = r.exact.design;
  const double fit =
      (-0.5 * kExamples * std::log(2.0 * std::numbers::pi * variance)) -
      ((r.exact.targets - x.matmul(mean)).square().sum() + x.matmul(covariance).matmul(x.t()).trace()).item<double>() /
          (2.0 * variance);
  EXPECT_GT(fit - kl, r.exact.log_evidence - 0.01);
  EXPECT_LT(fit - kl, r.exact.log_evidence + 1e-9);
  EXPECT_LT(r.exact.best_elbo, r.exact.log_evidence - 0.05);  // independent Gaussians cannot
  const torch::Tensor exact_covariance = torch::linalg_inv(r.exact.precision);
  EXPECT_LT((covariance - exact_covariance).abs().max().item<double>(),
            0.1 * exact_covariance.diagonal().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Families, CorrelatedFamily, ::testing::Values("full-rank", "low-rank:4"),
                         [](const auto& test) { return test.param.substr(0, 4) == "full" ? "full_rank" : "low_rank"; });

TEST(LowRank, OfTwoRanksHasABoundBelowTheEvidence) {
  Regression r({"low-rank:1", "bias=low-rank:2"});
  train(r, 3000);
  constexpr int kDraws = 4000;
  std::vector<torch::Tensor> draws;
  for (std::uint32_t draw = 0; draw < kDraws; ++draw) {
    r.problem.posterior.draw({.seed = 6, .step = draw});
    draws.push_back(r.gathered(r.problem.posterior.weights()));
  }
  const torch::Tensor errors = r.exact.targets - torch::stack(draws).matmul(r.exact.design.t());
  const double variance = kNoise * kNoise;
  const torch::Tensor fits =
      errors.square().sum(1) / (-2.0 * variance) - 0.5 * kExamples * std::log(2.0 * std::numbers::pi * variance);
  const double elbo = fits.mean().item<double>() - reported_kl(r);
  const double error = fits.std().item<double>() / std::sqrt(static_cast<double>(kDraws));
  EXPECT_LT(error, 0.05);
  EXPECT_LT(elbo, r.exact.log_evidence + 4.0 * error);
  EXPECT_GT(elbo, r.exact.best_elbo - 0.05 - 4.0 * error);
}

}  // namespace
}  // namespace credence
