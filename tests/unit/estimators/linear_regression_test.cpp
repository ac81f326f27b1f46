#include "unit/estimators/linear_regression.h"

#include <gmock/gmock.h>

namespace credence {
namespace {

using test::kExamples;
using test::kInputs;
using test::Regression;

TEST(LinearRegression, ClosedFormsAgree) {
  const Regression r;
  EXPECT_LT(torch::linalg_cond(r.exact.precision).item<double>(), 100.0);
  const torch::Tensor scale = r.exact.precision.diagonal().rsqrt();
  EXPECT_NEAR(r.exact.elbo(r.exact.mean, scale), r.exact.best_elbo, 1e-10);
  EXPECT_LT(r.exact.best_elbo, r.exact.log_evidence);
  EXPECT_LT(r.exact.elbo(r.exact.mean, 1.1 * scale), r.exact.best_elbo);
  EXPECT_LT(r.exact.elbo(r.exact.mean + 0.05, scale), r.exact.best_elbo);
}

/// z values of the mean gradient over many draws: with respect to the means, then to the raw scales.
torch::Tensor z_values(Regression& r, const torch::Tensor& mean, const torch::Tensor& scale) {
  const auto communicator = make_self_communicator();
  ReparameterizedEstimator estimator(r.problem.parts(*communicator), {.seed = 77});
  const torch::Tensor raw = torch::log(torch::expm1(scale));
  const int draws = 4000;
  torch::Tensor sum = torch::zeros({2 * (kInputs + 1)}, torch::kFloat64), squares = torch::zeros_like(sum);
  for (int step = 0; step < draws; ++step) {
    r.put(r.problem.posterior.mean(), mean);
    r.put(r.problem.posterior.raw_scale(), raw);
    r.problem.posterior.set_drawn(std::nullopt);
    estimator.run(step, test::source_of(r.batch), {});
    test::descend(r.problem.posterior, estimator.gradient(), r.objective, step, estimator.gradient_multiplier());
    const torch::Tensor gradient =
        torch::cat({mean - r.gathered(r.problem.posterior.mean()), raw - r.gathered(r.problem.posterior.raw_scale())});
    sum += gradient;
    squares += gradient.square();
  }
  const torch::Tensor average = sum / draws;
  return average / torch::sqrt((squares / draws - average.square()) / draws);
}

TEST(LinearRegression, ExpectedGradientIsZeroAtTheOptimum) {
  Regression r;
  const torch::Tensor scale = r.exact.precision.diagonal().rsqrt();
  const torch::Tensor z = z_values(r, r.exact.mean, scale);
  EXPECT_LT(z.abs().max().item<double>(), 4.0) << z;
  // Ten per cent away from it, the same test sees it.
  EXPECT_GT(z_values(r, r.exact.mean, 1.1 * scale).narrow(0, kInputs + 1, kInputs + 1).abs().min().item<double>(), 4.0);
  EXPECT_GT(z_values(r, r.exact.mean + 0.3 * scale, scale).narrow(0, 0, kInputs + 1).abs().max().item<double>(), 4.0);
}

TEST(LinearRegression, TrainingFromAfarReachesTheBestBound) {
  Regression r;
  const auto communicator = make_self_communicator();
  ReparameterizedEstimator estimator(r.problem.parts(*communicator),
                                     {.seed = 1, .shards = 1, .samples = 2, .noise = NoiseSharing::shard});
  r.put(r.problem.posterior.mean(), torch::full({kInputs + 1}, 3.0, torch::kFloat64));
  r.problem.posterior.set_drawn(std::nullopt);
  EXPECT_LT(r.exact.elbo(r.gathered(r.problem.posterior.mean()), r.gathered(r.problem.posterior.scales())),
            r.exact.best_elbo - 100.0);
  Optimizer optimizer(r.problem.posterior, {.learning_rate = 0.05, .scale_learning_rate = 0.05, .clip_norm = {}});
  const std::int64_t steps = 4000;
  for (std::int64_t step = 0; step < steps; ++step) {
    estimator.run(step, test::source_of(r.batch), {});
    optimizer.step(
        estimator.gradient(),
        {.number = step,
         .learning_rate_factor = 0.5 * (1.0 + std::cos(std::numbers::pi * static_cast<double>(step) / steps)),
         .gradient_multiplier = estimator.gradient_multiplier(),
         .weights = r.objective.weights(step),
         .dataset_size = r.objective.dataset_size,
         .next_draw = estimator.first_draw(step + 1)});
  }
  const torch::Tensor mean = r.gathered(r.problem.posterior.mean());
  const torch::Tensor scale = r.gathered(r.problem.posterior.scales());
  EXPECT_GT(r.exact.elbo(mean, scale), r.exact.best_elbo - 0.05);
  EXPECT_LE(r.exact.elbo(mean, scale), r.exact.best_elbo + 1e-10);
  const torch::Tensor ratio = scale.square() * r.exact.precision.diagonal();
  EXPECT_LT((ratio - 1.0).abs().max().item<double>(), 0.1) << ratio;
}

}  // namespace
}  // namespace credence
