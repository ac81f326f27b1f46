#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "credence/kernels/kernel_set.h"

namespace credence {

/// The one place that defines the scale. Minimised, in nats per example:
///   mean NLL + (a * E_q[-log p(w)] - b * H[q]) / N
/// with a = b = L (kl-weight, times its warm-up) or a = 1, b = T (temperature). N: size of the training set.
/// Reported as ELBO, in nats for the whole dataset: -N * mean NLL - KL, whatever a and b are.
struct Objective {
  std::int64_t dataset_size = 1;  // N
  double kl_weight = 1.0;         // L
  double temperature = 1.0;       // T
  std::int64_t warmup_steps = 0;  // steps over which the KL weight rises linearly to its value
  bool is_bound = true;           // false where the likelihood minimised is not the data's own (augmentation)

  struct Weights {
    double cross_entropy = 1.0;  // a
    double entropy = 1.0;        // b
  };
  /// `step` counts from 0.
  Weights weights(std::int64_t step) const;
};

/// Nats for the whole dataset.
struct ObjectiveValue {
  double elbo = 0.0;  // NaN where nothing is Gaussian, or the objective is no bound
  double objective = 0.0;
  double expected_log_likelihood = 0.0;
  double kl = 0.0;            // over Gaussian tensors; NaN where there are none
  std::vector<double> kl_of;  // per tensor; NaN for point estimates
};

/// `mean_nll`: nats per example under the posterior whose sums these are.
ObjectiveValue evaluate_objective(const Objective& objective, const Objective::Weights& weights, double mean_nll,
                                  std::span<const kernels::Segment> segments,
                                  std::span<const kernels::SegmentSums> sums);

/// What `elbo` is for these segments, in words: the checkpoint's attribute `bound`.
std::string describe_bound(std::span<const kernels::Segment> segments);

}  // namespace credence
