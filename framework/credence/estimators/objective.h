#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/posteriors/complexity.h"

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

/// UserError where a temperature other than 1 would change nothing: no tensor has an entropy.
void require_entropy_to_temper(const Objective& objective, const PosteriorPlan& plan);

/// Nats for the whole dataset; of an ensemble the mean over members.
struct ObjectiveValue {
  double elbo = 0.0;  // NaN where nothing is Gaussian, or the objective is no bound
  double objective = 0.0;
  double expected_log_likelihood = 0.0;
  double kl = 0.0;            // over tensors that have a distribution; NaN where none has, or its KL is not finite
  std::vector<double> kl_of;  // per tensor of the network; NaN for point estimates
};

/// What KL and the objective are made of, beside the loss.
struct ComplexitySums {
  std::vector<kernels::SegmentSums> kernels;  // of every segment
  std::vector<TermNats> terms;                // what the kernels do not know
};
/// All of it for a posterior at rest; `prior_nats` as in StepTotals.
ComplexitySums measure_complexity(Posterior& posterior, std::span<const double> prior_nats);
/// Terms for the priors charged at draws.
void append_charged_terms(const PosteriorPlan& plan, std::span<const double> prior_nats, std::vector<TermNats>& terms);

/// Nats per example under the posterior: with weight draws, which is what the ELBO is made of, and with the noise of
/// the estimator, whose gradient the objective follows. Equal in expectation for most estimators.
struct MeanNll {
  MeanNll(double both) : reported(both), minimised(both) {}
  MeanNll(double with_draws, double with_noise) : reported(with_draws), minimised(with_noise) {}
  double reported, minimised;
};
/// `sums`: of the posterior that `nll` is of.
ObjectiveValue evaluate_objective(const Objective& objective, const Objective::Weights& weights, const MeanNll& nll,
                                  const PosteriorPlan& plan, const ComplexitySums& sums);

}  // namespace credence
