// The generalised Gauss-Newton matrix against explicit Jacobians.
#include "credence/estimators/curvature.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "unit/estimators/jacobian.h"

namespace credence {
namespace {

using test::waves;

// Of Jacobians by differences (1e-10 each), squared and summed over a few hundred terms of order one.
constexpr double kTolerance = 1e-7;

/// The Hessian of -log p(y | f) in f, [B, outputs, outputs], from its formulas.
torch::Tensor hessian_of(const Likelihood& likelihood, const torch::Tensor& outputs) {
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) {
    const torch::Tensor e = outputs.exp();
    const torch::Tensor p = e / e.sum(1, true);
    return torch::diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1);
  }
  if (std::holds_alternative<BernoulliLikelihood>(likelihood)) {
    const torch::Tensor p = 1.0 / (1.0 + torch::exp(-outputs));
    return torch::diag_embed(p * (1.0 - p));
  }
  if (std::holds_alternative<PoissonLikelihood>(likelihood)) return torch::diag_embed(outputs.exp());
  if (std::holds_alternative<LearnedGaussianLikelihood>(likelihood)) {  // columns: two means, two raw scales
    const torch::Tensor scales = torch::log1p(outputs.narrow(1, 2, 2).exp());
    return torch::diag_embed(torch::cat({scales.pow(-2), torch::zeros_like(scales)}, 1));
  }
  const double scale = std::get<GaussianLikelihood>(likelihood).scale;
  return torch::diag_embed(torch::ones_like(outputs)) / (scale * scale);
}

torch::Tensor matrix_by_definition(const Likelihood& likelihood, const torch::Tensor& outputs,
                                   const torch::Tensor& jacobian) {
  return torch::einsum("bip,bij,bjq->pq", {jacobian, hessian_of(likelihood, outputs), jacobian});
}

double largest(const torch::Tensor& difference) {
  return difference.abs().max().item<double>();
}

TEST(HessianRoot, IsARootOfTheHessian) {
  const torch::Tensor outputs = 2.0 * waves({5, 4}, 0.8);
  const std::vector<Likelihood> likelihoods = {CategoricalLikelihood{4}, BernoulliLikelihood{4},
                                               GaussianLikelihood{0.3, 4}, LearnedGaussianLikelihood{2},
                                               PoissonLikelihood{4}};
  for (const Likelihood& likelihood : likelihoods) {
    torch::Tensor product = torch::zeros({5, 4, 4}, torch::kFloat64);
    for (const torch::Tensor& column : hessian_root(likelihood, outputs)) {
      product += column.unsqueeze(2) * column.unsqueeze(1);
    }
    const torch::Tensor expected = hessian_of(likelihood, outputs);
    EXPECT_LT(largest(product - expected), 1e-14 * largest(expected));
  }
}

TEST(HessianRoot, RefusesWhatDependsOnTheTargets) {
  EXPECT_THROW(hessian_root(HeteroscedasticLikelihood{1}, torch::zeros({1, 2})), UserError);
  EXPECT_THROW(hessian_root(StudentTLikelihood{}, torch::zeros({1, 1})), UserError);
}

TEST(Curvature, DiagonalIsThatOfExplicitJacobians) {
  Network network = test::mixed_network();
  const torch::Tensor inputs = waves({6, 2, 7, 7}, 1.3);
  const std::vector<int> slots = {0, 1, 2, 3, 4, 5};
  ASSERT_EQ(network.layout().slots.size(), slots.size());
  const torch::Tensor jacobian = test::jacobian_by_differences(network, inputs, slots);
  for (const Likelihood& likelihood : {Likelihood(CategoricalLikelihood{3}), Likelihood(BernoulliLikelihood{3}),
                                       Likelihood(GaussianLikelihood{0.5, 3})}) {
    Curvature curvature(network, likelihood, slots);
    torch::Tensor sum = torch::zeros({curvature.weights()}, torch::kFloat64);
    const torch::Tensor outputs = curvature.add_diagonal(inputs.narrow(0, 0, 4), sum);
    curvature.add_diagonal(inputs.narrow(0, 4, 2), sum);
    EXPECT_LT(largest(outputs - network.forward(inputs).narrow(0, 0, 4)), 1e-12);
    EXPECT_THAT(curvature.slow_tensors(), ::testing::ElementsAre("gain"));
    const torch::Tensor expected =
        matrix_by_definition(likelihood, network.forward(inputs).detach(), jacobian).diagonal();
    EXPECT_LT(largest(sum - expected), kTolerance * largest(expected));
  }
}

TEST(Curvature, MatrixIsThatOfExplicitJacobians) {
  Network network = test::mixed_network();
  const torch::Tensor inputs = waves({6, 2, 7, 7}, 1.3);
  std::vector<int> slots;  // in another order than the graph's
  for (const char* name : {"conv.weight", "hidden.bias", "last.weight", "hidden.weight"}) {
    for (std::size_t i = 0; i < network.layout().slots.size(); ++i) {
      if (network.layout().slots[i].name == name) slots.push_back(static_cast<int>(i));
    }
  }
  ASSERT_EQ(slots.size(), 4U);
  const Likelihood likelihood = CategoricalLikelihood{3};
  const torch::Tensor jacobian = test::jacobian_by_differences(network, inputs, slots);
  Curvature curvature(network, likelihood, slots);
  torch::Tensor sum = torch::zeros({curvature.weights(), curvature.weights()}, torch::kFloat64);
  curvature.add_matrix(inputs, sum);
  const torch::Tensor expected = matrix_by_definition(likelihood, network.forward(inputs).detach(), jacobian);
  EXPECT_LT(largest(sum - expected), kTolerance * largest(expected));
}

/// One Linear used twice: its gradient is no longer one layer's.
struct Shared : torch::nn::Module {
  Shared() : layer(register_module("layer", torch::nn::Linear(3, 3))) {}
  torch::Tensor forward(torch::Tensor x) { return layer(torch::tanh(layer(x))); }
  torch::nn::Linear layer;
};

TEST(Curvature, OfSharedParametersIsExactToo) {
  Network network(torch::nn::AnyModule(std::make_shared<Shared>()), torch::kFloat64);
  const torch::Tensor inputs = waves({5, 3}, 1.3);
  const Likelihood likelihood = CategoricalLikelihood{3};
  const torch::Tensor jacobian = test::jacobian_by_differences(network, inputs, {0, 1});
  Curvature curvature(network, likelihood, {0, 1});
  torch::Tensor sum = torch::zeros({curvature.weights()}, torch::kFloat64);
  curvature.add_diagonal(inputs, sum);
  const torch::Tensor expected =
      matrix_by_definition(likelihood, network.forward(inputs).detach(), jacobian).diagonal();
  EXPECT_LT(largest(sum - expected), kTolerance * largest(expected));
  EXPECT_EQ(curvature.slow_tensors().size(), 2U);
  torch::Tensor matrix = torch::zeros({curvature.weights(), curvature.weights()}, torch::kFloat64);
  EXPECT_THROW(curvature.add_matrix(inputs, matrix), UserError);
}

TEST(LinearizedNetwork, IsTheTangentByDifferences) {
  Network network = test::mixed_network();
  const torch::Tensor inputs = waves({6, 2, 7, 7}, 1.3);
  const torch::Tensor base = network.values();
  std::vector<int> slots;
  std::vector<torch::Tensor> changes;
  torch::Tensor arena = base + 0.3 * waves({base.numel()}, 2.1);
  for (std::size_t i = 0; i < network.layout().slots.size(); ++i) {
    const Slot& place = network.layout().slots[i];
    slots.push_back(static_cast<int>(i));
    changes.push_back((arena - base).narrow(0, place.offset, place.count));
  }
  const torch::Tensor jacobian = test::jacobian_by_differences(network, inputs, slots);
  network.bind(base);
  const torch::Tensor at_base = network.forward(inputs).detach();
  network.bind(arena);
  const torch::Tensor moved = network.forward(inputs).detach();
  const torch::Tensor expected = at_base + torch::matmul(jacobian, torch::cat(changes));
  ASSERT_GT(largest(moved - expected), 1e-2) << "the network is linear as it is";

  network.bind_linearized(arena, base);
  EXPECT_LT(largest(network.forward(inputs) - expected), 1e-8);
  arena.copy_(base);  // what is written there counts
  EXPECT_LT(largest(network.forward(inputs) - at_base), 1e-14);
  network.bind(base);
  EXPECT_LT(largest(network.forward(inputs) - at_base), 1e-14);
}

}  // namespace
}  // namespace credence
