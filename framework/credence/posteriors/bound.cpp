#include <algorithm>
#include <variant>

#include "credence/posteriors/plan.h"

namespace credence {
namespace {

using enum Family::Kind;

std::string describe_gaussian_dropout(const PosteriorPlan& plan) {
  bool all_log_uniform = true;
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    all_log_uniform = all_log_uniform && (plan.families[i].kind != gaussian_dropout ||
                                          std::holds_alternative<LogUniformPrior>(plan.priors[i]));
  }
  if (all_log_uniform) {
    return "none: the log-uniform prior is improper; objective = E[NLL] + KL, which is constant in the weights of "
           "Gaussian dropout, as the rate is fixed, and counts as 0 (Kingma et al. 2015)";
  }
  return "none: Gaussian dropout with weight decay; objective = E[NLL] + sum of mean^2 / (2 s^2 (1 - p)) for priors "
         "N(0, s^2), up to a constant; no entropy is in it, though that of N(mean, a mean^2) depends on the mean";
}

}  // namespace

std::string describe_bound(const PosteriorPlan& plan) {
  const auto any_family = [&](Family::Kind kind) {
    return std::any_of(plan.families.begin(), plan.families.end(), [&](const Family& f) { return f.kind == kind; });
  };
  if (any_family(dropout) || any_family(dropconnect)) {
    return "none: dropout's surrogate; objective = NLL + sum of mean^2 / (2 s^2 (1 - p)) for priors N(0, s^2), up to a "
           "constant (Gal and Ghahramani 2016)";
  }
  if (any_family(gaussian_dropout)) return describe_gaussian_dropout(plan);
  const auto gaussian =
      std::count_if(plan.families.begin(), plan.families.end(), [](const Family& f) { return f.gaussian(); });
  const auto categorical_count =
      std::count_if(plan.families.begin(), plan.families.end(), [](const Family& f) { return f.kind == categorical; });
  if (any_family(laplace)) {
    return "none: point estimate; objective = -(log likelihood + log prior); the attribute log_evidence is Laplace's "
           "approximation of the evidence";
  }
  if (gaussian == 0 && categorical_count > 0) {
    return "none: point estimate of the weights; objective = -(E_q(depth)[log likelihood] + log prior) + KL(q(depth) "
           "|| p(depth))";
  }
  if (gaussian == 0) return "none: point estimate; objective = -(log likelihood + log prior)";
  std::string text = "evidence lower bound";
  for (const Prior& prior : plan.priors) {
    if (std::holds_alternative<LogUniformPrior>(prior)) {
      return "none: the log-uniform prior is improper; objective with the KL of Molchanov et al. 2017, up to its "
             "constant";
    }
    if (std::holds_alternative<EmpiricalPrior>(prior)) {
      text = "type II (empirical Bayes) lower bound: the prior's scale is fitted to the posterior";
    }
  }
  if (plan.members > 1) text += " (mean over members)";
  if (gaussian + categorical_count < plan.network_slots)
    text += " given the tensors that are point estimates, which are outside the KL";
  return text;
}

bool has_bound(const PosteriorPlan& plan) {
  return !describe_bound(plan).starts_with("none");
}

}  // namespace credence
