// The Laplace approximation of a linear regression, where it is exact.
#include "credence/training/laplace.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "unit/estimators/linear_regression.h"

namespace credence {
namespace {

using test::Exact;
using test::kExamples;
using test::kInputs;
using test::kNoise;
using test::Problem;

struct Regression {
  explicit Regression(const std::string& family, const torch::Tensor& design)
      : problem({.network = "linear",
                 .likelihood = GaussianLikelihood{kNoise, 1},
                 .inputs = kInputs,
                 .families = {family},
                 .priors = {"normal:1"}}),
        inputs(design.to(torch::kFloat32)),
        targets(inputs.sum(1, true) * 0.4 + 0.3 + kNoise * test::waves({kExamples, 1}, 2.7, torch::kFloat32)),
        exact(inputs.to(torch::kFloat64), targets.to(torch::kFloat64)) {
    MemoryData data;
    data.spec.input_shape = {kInputs};
    data.spec.target_size = 1;
    data.inputs.assign(inputs.data_ptr<float>(), inputs.data_ptr<float>() + inputs.numel());
    data.targets.assign(targets.data_ptr<float>(), targets.data_ptr<float>() + targets.numel());
    source = std::make_unique<MemorySource>(std::move(data));
    Posterior& posterior = problem.posterior;
    posterior.view(posterior.mean(), 0).copy_(exact.mean.narrow(0, 0, kInputs).view({1, kInputs}));
    posterior.view(posterior.mean(), 1).copy_(exact.mean.narrow(0, kInputs, 1));
  }

  std::map<std::string, double> fit(bool fit_precision, int parts = 1, double prior_weight = 1.0) {
    const auto communicator = make_self_communicator();
    return fit_laplace({problem.network, problem.posterior, problem.likelihood, *source, *communicator},
                       {.prior_weight = prior_weight, .fit_precision = fit_precision, .parts = parts});
  }

  Problem problem;
  torch::Tensor inputs, targets;
  Exact exact;
  std::unique_ptr<MemorySource> source;
};

/// Columns orthogonal to each other and to the constant.
torch::Tensor orthogonal() {
  const torch::Tensor index = torch::arange(kExamples, torch::kInt64);
  std::vector<torch::Tensor> columns;
  for (std::int64_t bit = 0; bit < kInputs; ++bit) {
    columns.push_back(index.bitwise_right_shift(bit).remainder(2) * 2 - 1);
  }
  return torch::stack(columns, 1).to(torch::kFloat64);
}

TEST(LaplaceOfLinearRegression, LastLayerIsTheExactPosteriorAndEvidence) {
  Regression regression("laplace:last-layer", test::waves({kExamples, kInputs}, 0.9));
  const auto numbers = regression.fit(false, 4);
  EXPECT_NEAR(numbers.at("log_evidence"), regression.exact.log_evidence, 1e-10);
  EXPECT_EQ(numbers.at("log_evidence"), numbers.at("log_evidence_at_prior"));
  const Posterior& posterior = regression.problem.posterior;
  const torch::Tensor root = torch::cat({posterior.kept_view(0), posterior.kept_view(1)});
  const torch::Tensor covariance = torch::linalg_inv(regression.exact.precision);
  EXPECT_LT((root.matmul(root.t()) - covariance).abs().max().item<double>(), 1e-14);
}

TEST(LaplaceOfLinearRegression, DiagonalIsThatOfTheExactPrecision) {
  Regression regression("laplace", test::waves({kExamples, kInputs}, 0.9));
  const auto numbers = regression.fit(false);
  const Posterior& posterior = regression.problem.posterior;
  const torch::Tensor precision = torch::cat({posterior.kept_view(0).flatten(), posterior.kept_view(1)});
  EXPECT_LT((precision - regression.exact.precision.diagonal()).abs().max().item<double>(), 1e-11);
  // Leaving the correlations out makes the determinant larger (Hadamard's inequality), by a known factor.
  EXPECT_NEAR(numbers.at("log_evidence"), regression.exact.best_elbo, 1e-10);
}

TEST(LaplaceOfLinearRegression, WeighsThePriorAsTheObjectiveDoes) {
  Regression regression("laplace", test::waves({kExamples, kInputs}, 0.9));
  regression.fit(false, 1, 3.0);
  const Posterior& posterior = regression.problem.posterior;
  const torch::Tensor precision = torch::cat({posterior.kept_view(0).flatten(), posterior.kept_view(1)});
  // Under N(0, 1) times 3: two more than with the prior itself.
  EXPECT_LT((precision - regression.exact.precision.diagonal() - 2.0).abs().max().item<double>(), 1e-11);
}

TEST(LaplaceOfLinearRegression, DiagonalEvidenceIsExactForOrthogonalInputs) {
  Regression regression("laplace", orthogonal());
  EXPECT_NEAR(regression.fit(false).at("log_evidence"), regression.exact.log_evidence, 1e-10);
}

TEST(LaplaceEvidence, BestFactorIsTheMaximum) {
  const LaplaceEvidence evidence{
      .log_likelihood = -3.0, .curvatures = torch::tensor({0.0, 0.3, 40.0, 900.0}, torch::kFloat64), .squares = 1.7};
  const double best = evidence.best_factor();
  for (const double other : {0.01, 0.5, 0.999, 1.001, 2.0, 100.0}) {
    EXPECT_GT(evidence.log_evidence(best), evidence.log_evidence(best * other)) << other;
  }
  // log N(D | w) + log N(w | 0, 1 / f) + (n / 2) log 2 pi - log det / 2, written out.
  const double f = 2.0;
  double expected = -3.0 - 0.5 * f * 1.7;
  for (const double c : {0.0, 0.3, 40.0, 900.0}) expected += 0.5 * std::log(f) - 0.5 * std::log(c + f);
  EXPECT_NEAR(evidence.log_evidence(f), expected, 1e-12);
}

TEST(LaplaceOfLinearRegression, FitsThePriorsPrecision) {
  Regression regression("laplace:last-layer", test::waves({kExamples, kInputs}, 0.9));
  const auto numbers = regression.fit(true);
  EXPECT_GT(numbers.at("log_evidence"), numbers.at("log_evidence_at_prior"));
  const Posterior& posterior = regression.problem.posterior;
  const torch::Tensor root = torch::cat({posterior.kept_view(0), posterior.kept_view(1)});
  const torch::Tensor likelihood_part = regression.exact.precision - torch::eye(kInputs + 1, torch::kFloat64);
  const torch::Tensor precision =
      likelihood_part + numbers.at("prior_precision_factor") * torch::eye(kInputs + 1, torch::kFloat64);
  EXPECT_LT((root.matmul(root.t()) - torch::linalg_inv(precision)).abs().max().item<double>(), 1e-13);
}

TEST(Laplace, OfAnEnsembleIsThatOfEachMember) {
  const auto communicator = make_self_communicator();
  Regression single("laplace", test::waves({kExamples, kInputs}, 0.9));
  single.fit(true);
  Network network(test::module_of("linear", kInputs, 1), torch::kFloat64);
  const Likelihood likelihood = GaussianLikelihood{kNoise, 1};
  const torch::Tensor start = single.problem.posterior.mean();
  Posterior posterior(plan_posterior(network.layout(), parse_families({"laplace"}), parse_priors({"normal:1"}), 2),
                      torch::cat({0.5 * start, start}), 0.1, 1);
  fit_laplace({network, posterior, likelihood, *single.source, *communicator}, {});
  EXPECT_TRUE(posterior.kept_view(2).equal(single.problem.posterior.kept_view(0)));
  EXPECT_FALSE(posterior.kept_view(0).equal(posterior.kept_view(2)));
}

}  // namespace
}  // namespace credence
