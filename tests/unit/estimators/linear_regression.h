// Bayesian linear regression with known noise: the exact posterior, the evidence and the best mean-field bound are
// known in closed form.
#pragma once

#include "unit/estimators/cases.h"

namespace credence::test {

inline constexpr double kNoise = 0.5;
inline constexpr std::int64_t kExamples = 24;
inline constexpr std::int64_t kInputs = 3;

/// Closed forms, in the order of the network's parameters: the weights, then the bias.
struct Exact {
  torch::Tensor design, targets;  // [N, D + 1], [N]
  torch::Tensor precision, mean;  // L, its inverse times X^T y / noise^2
  double log_evidence = 0.0, best_elbo = 0.0;

  Exact(const torch::Tensor& inputs, const torch::Tensor& values) {
    design = torch::cat({inputs, torch::ones({kExamples, 1}, torch::kFloat64)}, 1);
    targets = values.squeeze(1);
    const double variance = kNoise * kNoise;
    precision = design.t().matmul(design) / variance + torch::eye(kInputs + 1, torch::kFloat64);
    mean = torch::linalg_solve(precision, design.t().matmul(targets) / variance);
    // y ~ N(0, noise^2 I + X X^T).
    const torch::Tensor covariance = variance * torch::eye(kExamples, torch::kFloat64) + design.matmul(design.t());
    log_evidence =
        -0.5 * (torch::logdet(covariance) + targets.dot(torch::linalg_solve(covariance, targets))).item<double>() -
        0.5 * kExamples * std::log(2.0 * std::numbers::pi);
    best_elbo = log_evidence - 0.5 * (precision.diagonal().log().sum() - torch::logdet(precision)).item<double>();
  }

  /// The ELBO of N(m, diag(s^2)), its expectation taken in closed form.
  double elbo(const torch::Tensor& m, const torch::Tensor& s) const {
    const double variance = kNoise * kNoise;
    const double squares = (targets - design.matmul(m)).square().sum().item<double>() +
                           (s.square() * design.square().sum(0)).sum().item<double>();
    const double fit = -0.5 * kExamples * std::log(2.0 * std::numbers::pi * variance) - squares / (2.0 * variance);
    const double kl = (0.5 * (m.square() + s.square()) - s.log() - 0.5).sum().item<double>();
    return fit - kl;
  }
};

struct Regression {
  explicit Regression(const std::vector<std::string>& families = {"mean-field"})
      : problem({.network = "linear",
                 .likelihood = GaussianLikelihood{kNoise, 1},
                 .inputs = kInputs,
                 .families = families,
                 .priors = {"normal:1"},
                 .initial_scale = 0.0067}),
        batch({{waves({kExamples, kInputs}, 0.9), {}}}),
        exact(make_exact()) {}

  Exact make_exact() {
    const torch::Tensor truth = torch::tensor({0.8, -0.5, 0.3}, torch::kFloat64).view({kInputs, 1});
    batch[0].targets = batch[0].inputs.matmul(truth) + 0.4 + kNoise * waves({kExamples, 1}, 2.7);
    return {batch[0].inputs, batch[0].targets};
  }

  std::vector<std::int64_t> places() const {
    std::vector<std::int64_t> list;
    for (const Slot& slot : problem.network.layout().slots) {
      for (std::int64_t i = 0; i < slot.count; ++i) list.push_back(slot.offset + i);
    }
    return list;
  }
  torch::Tensor gathered(const torch::Tensor& arena) const { return arena.index_select(0, torch::tensor(places())); }
  void put(torch::Tensor arena, const torch::Tensor& values) const {
    arena.index_copy_(0, torch::tensor(places()), values);
  }

  Problem problem;
  std::vector<Examples> batch;
  Exact exact;
  Objective objective{.dataset_size = kExamples};
};

}  // namespace credence::test
