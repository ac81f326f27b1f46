#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/overloaded.h"
#include "credence/likelihoods/latent.h"

namespace credence {
namespace {

const double kHalfLogTwoPi = 0.5 * std::log(2.0 * std::numbers::pi);

double log_normalizer(const GaussianLikelihood& gaussian) {
  return kHalfLogTwoPi + std::log(gaussian.scale);
}

double log_normalizer(const StudentTLikelihood& t) {
  return std::lgamma(0.5 * t.dof) - std::lgamma(0.5 * (t.dof + 1.0)) + 0.5 * std::log(t.dof * std::numbers::pi) +
         std::log(t.scale);
}

void require_two_halves(const torch::Tensor& outputs, std::int64_t columns) {
  require(outputs.dim() == 2 && outputs.size(1) == 2 * columns,
          "this likelihood reads {} values per example (means and noise) and was given {}; with gaussian:learned, make "
          "the Network with initial_raw_scales(likelihood)",
          2 * columns, outputs.numel() / std::max<std::int64_t>(outputs.size(0), 1));
}

// log p of every target, [B, D], in the outputs' type.

torch::Tensor log_density(const LearnedGaussianLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& y) {
  require_two_halves(outputs, l.columns);
  const torch::Tensor scale = torch::softplus(outputs.narrow(1, l.columns, l.columns));
  const torch::Tensor error = (y - outputs.narrow(1, 0, l.columns)) / scale;
  return error * error * -0.5 - scale.log() - kHalfLogTwoPi;
}

torch::Tensor log_density(const HeteroscedasticLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& y) {
  require_two_halves(outputs, l.columns);
  const torch::Tensor log_variance = outputs.narrow(1, l.columns, l.columns);
  const torch::Tensor error = y - outputs.narrow(1, 0, l.columns);
  return (error * error * torch::exp(-log_variance) + log_variance) * -0.5 - kHalfLogTwoPi;
}

torch::Tensor log_density(const PoissonLikelihood&, const torch::Tensor& outputs, const torch::Tensor& y) {
  return y * outputs - outputs.exp() - torch::lgamma(y + 1.0);
}

torch::Tensor log_density(const StudentTLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& y) {
  const torch::Tensor error = (y - outputs) / l.scale;
  return torch::log1p(error * error / l.dof) * (-0.5 * (l.dof + 1.0)) - log_normalizer(l);
}

torch::Tensor log_density(const GaussianLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& y) {
  const torch::Tensor error = (outputs - y) / l.scale;
  return error * error * -0.5 - log_normalizer(l);
}

torch::Tensor log_density(const BernoulliLikelihood&, const torch::Tensor& outputs, const torch::Tensor& y) {
  return torch::log_sigmoid(outputs * (y * 2.0 - 1.0));
}

// Networks with latent variables have likelihoods of examples, not of targets.

torch::Tensor log_density(const VaeLikelihood&, const torch::Tensor&, const torch::Tensor&) {
  throw InternalError("the density of a target of a vae");
}

torch::Tensor log_density(const DepthLikelihood&, const torch::Tensor&, const torch::Tensor&) {
  throw InternalError("the density of a target at no depth");
}

/// Levels stay whole numbers.
torch::Tensor vae_of_type(const torch::Tensor& targets, const torch::Tensor& outputs) {
  return targets.is_floating_point() ? targets.to(outputs.scalar_type()) : targets;
}

}  // namespace

torch::Tensor mean_negative_log_likelihood(const Likelihood& likelihood, const torch::Tensor& outputs,
                                           const torch::Tensor& targets) {
  return std::visit(
      Overloaded{[&](const CategoricalLikelihood& l) {
                   return torch::cross_entropy_loss(outputs, targets, {}, at::Reduction::Mean, -100, l.smoothing);
                 },
                 [&](const BernoulliLikelihood& l) {
                   return torch::binary_cross_entropy_with_logits(outputs, targets) * static_cast<double>(l.columns);
                 },
                 [&](const GaussianLikelihood& l) {
                   const double columns = static_cast<double>(l.columns);
                   return torch::mse_loss(outputs, targets) * (columns / (2.0 * l.scale * l.scale)) +
                          columns * log_normalizer(l);
                 },
                 [&](const VaeLikelihood& l) { return -vae_bounds(l, outputs, targets).elbo.mean(); },
                 [&](const DepthLikelihood& l) { return -depth_elbo(l, outputs, targets).mean(); },
                 [&](const auto& l) { return -log_density(l, outputs, targets).sum(1).mean(); }},
      likelihood);
}

torch::Tensor log_densities(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets) {
  return std::visit(
      Overloaded{[&](const CategoricalLikelihood&) {
                   return torch::log_softmax(outputs, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
                 },
                 [&](const auto& l) { return log_density(l, outputs, targets.to(outputs.scalar_type())).sum(1); }},
      likelihood);
}

torch::Tensor log_likelihoods(const Likelihood& likelihood, const torch::Tensor& outputs,
                              const torch::Tensor& targets) {
  const torch::Tensor exact = outputs.to(torch::kFloat64);
  if (const auto* vae = std::get_if<VaeLikelihood>(&likelihood)) {
    return vae_bounds(*vae, exact, vae_of_type(targets, exact)).log_weight;
  }
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) {
    return log_densities(*depth->inner, outputs_at_mode(*depth, exact), targets);
  }
  return log_densities(likelihood, exact, targets);
}

torch::Tensor expected_log_likelihoods(const Likelihood& likelihood, const torch::Tensor& outputs,
                                       const torch::Tensor& targets) {
  const torch::Tensor exact = outputs.to(torch::kFloat64);
  if (const auto* vae = std::get_if<VaeLikelihood>(&likelihood)) {
    return vae_bounds(*vae, exact, vae_of_type(targets, exact)).elbo;
  }
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) return depth_elbo(*depth, exact, targets);
  return log_likelihoods(likelihood, exact, targets);
}

torch::Tensor class_probabilities(const Likelihood& likelihood, const torch::Tensor& outputs) {
  ensure(is_classification(likelihood), "class probabilities of a likelihood without classes");
  const torch::Tensor exact = outputs.to(torch::kFloat64);
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) {
    return class_probabilities(*depth->inner, outputs_at_mode(*depth, exact));
  }
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) return torch::softmax(exact, 1);
  return torch::cat({torch::sigmoid(-exact), torch::sigmoid(exact)}, 1);
}

torch::Tensor flag_probabilities(const Likelihood& likelihood, const torch::Tensor& outputs) {
  const auto* depth = std::get_if<DepthLikelihood>(&likelihood);
  return torch::sigmoid((depth != nullptr ? outputs_at_mode(*depth, outputs) : outputs).to(torch::kFloat64));
}

std::int64_t count_correct(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets) {
  if (!is_classification(likelihood)) return 0;
  const torch::NoGradGuard no_grad;
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) {
    return count_correct(*depth->inner, outputs_at_mode(*depth, outputs), targets);
  }
  const torch::Tensor hits = std::holds_alternative<CategoricalLikelihood>(likelihood)
                                 ? outputs.argmax(1).eq(targets.dim() == 2 ? targets.argmax(1) : targets)
                                 : outputs.gt(0).eq(targets.gt(0.5));
  return hits.sum().item<std::int64_t>();
}

}  // namespace credence
