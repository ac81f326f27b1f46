#include "credence/estimators/objective.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "credence/base/errors.h"
#include "credence/priors/prior.h"

namespace credence {

Objective::Weights Objective::weights(std::int64_t step) const {
  const double ramp =
      warmup_steps > 0 ? std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(warmup_steps)) : 1.0;
  const double weight = kl_weight * ramp;
  return {weight, weight * temperature};
}

void require_entropy_to_temper(const Objective& objective, const PosteriorPlan& plan) {
  const bool has_entropy = std::any_of(plan.families.begin(), plan.families.end(), [](const Family& family) {
    return family.gaussian() || family.kind == Family::Kind::categorical;
  });
  require(objective.temperature == 1.0 || has_entropy,
          "--temperature {} scales the entropy of q, and no tensor of this posterior has one in the objective; use "
          "--kl-weight, or a posterior with standard deviations such as mean-field",
          objective.temperature);
}

void append_charged_terms(const PosteriorPlan& plan, std::span<const double> prior_nats, std::vector<TermNats>& terms) {
  const std::vector<int> slots = monte_carlo_slots(plan);
  ensure(slots.size() == prior_nats.size(), "a charge for every prior without a closed form");
  for (std::size_t i = 0; i < slots.size(); ++i) terms.push_back({slots[i], prior_nats[i], 0.0});
}

ComplexitySums measure_complexity(Posterior& posterior, std::span<const double> prior_nats) {
  ComplexitySums sums{posterior.measure(), closed_form_terms(posterior)};
  append_charged_terms(posterior.plan(), prior_nats, sums.terms);
  return sums;
}

ObjectiveValue evaluate_objective(const Objective& objective, const Objective::Weights& weights, const MeanNll& nll,
                                  const PosteriorPlan& plan, const ComplexitySums& sums) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  double cross_entropy = 0.0;
  double entropy = 0.0;
  double kl = 0.0;
  bool random = false;
  ObjectiveValue value;
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    const kernels::Segment& segment = plan.segments[i];
    cross_entropy += cross_entropy_nats(segment, sums.kernels[i]);
    entropy += entropy_nats(segment, sums.kernels[i]);
    const bool known = std::isfinite(segment.prior_scale);
    const bool categorical = plan.families[i].kind == Family::Kind::categorical;  // all of it is among the terms
    value.kl_of.push_back(categorical         ? 0.0
                          : !segment.gaussian ? nan
                          : known             ? kl_nats(segment, sums.kernels[i])
                                              : -entropy_nats(segment, sums.kernels[i]));
    random = random || segment.gaussian || categorical;
  }
  for (const TermNats& term : sums.terms) {
    cross_entropy += term.cross_entropy;
    entropy += term.entropy;
    if (term.slot >= 0) {
      value.kl_of[static_cast<std::size_t>(term.slot)] += term.cross_entropy - term.entropy;
    } else {
      kl += term.cross_entropy - term.entropy;
    }
  }
  for (const double nats : value.kl_of) kl += std::isnan(nats) ? 0.0 : nats;
  const double members = plan.members;
  cross_entropy /= members;
  entropy /= members;
  kl /= members;
  const auto examples = static_cast<double>(objective.dataset_size);
  value.expected_log_likelihood = -examples * nll.reported;
  value.kl = random ? kl : nan;
  value.elbo = objective.is_bound && has_bound(plan) ? value.expected_log_likelihood - value.kl : nan;
  value.objective = examples * nll.minimised + weights.cross_entropy * cross_entropy - weights.entropy * entropy;
  return value;
}

}  // namespace credence
