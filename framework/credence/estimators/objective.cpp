#include "credence/estimators/objective.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "credence/priors/prior.h"

namespace credence {

Objective::Weights Objective::weights(std::int64_t step) const {
  const double ramp =
      warmup_steps > 0 ? std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(warmup_steps)) : 1.0;
  const double weight = kl_weight * ramp;
  return {weight, weight * temperature};
}

ObjectiveValue evaluate_objective(const Objective& objective, const Objective::Weights& weights, double mean_nll,
                                  std::span<const kernels::Segment> segments,
                                  std::span<const kernels::SegmentSums> sums) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  double cross_entropy = 0.0;
  double entropy = 0.0;
  double kl = 0.0;
  bool gaussian = false;
  ObjectiveValue value;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    cross_entropy += cross_entropy_nats(segments[i], sums[i]);
    entropy += entropy_nats(segments[i], sums[i]);
    value.kl_of.push_back(segments[i].gaussian ? kl_nats(segments[i], sums[i]) : nan);
    if (segments[i].gaussian) {
      gaussian = true;
      kl += value.kl_of.back();
    }
  }
  value.expected_log_likelihood = -static_cast<double>(objective.dataset_size) * mean_nll;
  value.kl = gaussian ? kl : nan;
  value.elbo = objective.is_bound ? value.expected_log_likelihood - value.kl : nan;
  value.objective = -value.expected_log_likelihood + weights.cross_entropy * cross_entropy - weights.entropy * entropy;
  return value;
}

std::string describe_bound(std::span<const kernels::Segment> segments) {
  const auto gaussian =
      std::count_if(segments.begin(), segments.end(), [](const kernels::Segment& s) { return s.gaussian; });
  if (gaussian == 0) return "none: point estimate; objective = -(log likelihood + log prior)";
  if (gaussian == static_cast<std::ptrdiff_t>(segments.size())) return "evidence lower bound";
  return "evidence lower bound given the tensors that are point estimates, which are outside the KL";
}

}  // namespace credence
