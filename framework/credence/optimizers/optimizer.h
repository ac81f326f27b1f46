#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "credence/estimators/objective.h"
#include "credence/posteriors/posterior.h"
#include "credence/posteriors/update_share.h"

namespace credence {

struct OptimizerOptions {
  kernels::Rule rule = kernels::Rule::adam;
  double learning_rate = 5e-3;
  double scale_learning_rate = 5e-3;  // of the raw scales
  double beta1 = 0.9;                 // Adam, IVON; for SGD and LARS the momentum
  double beta2 = 0.999;
  double epsilon = 1e-8;
  std::optional<double> clip_norm{};  // of the objective's gradient over all optimised values; not with IVON and LARS
  double hess_init = 0.1;             // IVON: the Hessian of the mean NLL at the start
  double clip_radius =
      std::numeric_limits<double>::infinity();  // IVON: largest step of a mean before the learning rate
  double trust = 1e-3;                          // LARS: eta of the paper
  Objective objective{};                        // IVON: the first scales follow from it
  std::set<int> given_scales{};                 // IVON: slots whose scales stay as they are and give the first Hessian
};

/// Every element of all state in one pass of memory, prior and entropy gradients included.
///
/// Adam (Kingma and Ba 2015), SGD with momentum over (mean, raw scale).
///
/// IVON (Shen et al. 2024): natural-gradient steps of a mean-field Gaussian. The Hessian h of a weight is estimated by
/// (dL/dscale) / scale; scale = sqrt(b / (N (h + d))), with weight decay d = a / (N prior_scale^2) and the weights a, b
/// of the objective; under an informed prior d is of each weight. Sets the posterior's scales at construction, from
/// hess_init; given_scales stay, with the h that they follow from, or become the largest that d allows; while the KL
/// warms up they are those of its full weight. There is no learning rate of scales. That of the means is multiplied by
/// hess_init + d (informed: without d). Point estimates keep h = hess_init: momentum, debiased, at the learning rate.
///
/// LARS (You et al. 2017): each tensor's rate is multiplied by trust |mean| / (|dNLL/dmean| + d |mean|), for raw scales
/// by trust sqrt(count) / |gradient| (they are logarithms where scales are small: scales change by a relative `trust`);
/// the last only where the segment is `layerwise`. Two passes, one to measure.
class Optimizer {
 public:
  /// UserError for rates out of range, and IVON with no Gaussian tensor, a prior that is not Gaussian or an objective
  /// without entropy.
  Optimizer(Posterior& posterior, const OptimizerOptions& options);

  struct Step {
    std::int64_t number = 0;                        // from 0
    double learning_rate_factor = 1.0;              // of the schedule
    double gradient_multiplier = 1.0;               // what makes means of the sums
    Objective::Weights weights;                     // of the objective, not yet divided by N
    std::int64_t dataset_size = 1;                  // N
    std::optional<kernels::NoiseStream> next_draw;  // also written in the same pass
    const UpdateShare* share = nullptr;             // what is updated; null: all that the posterior works on
    /// Where each rank works on some of it, adds the sums of all ranks. Collective.
    std::function<void(std::vector<kernels::SegmentSums>&)> sum_over_ranks{};
  };
  struct Result {
    std::vector<kernels::SegmentSums> sums;  // of the values before the update
    double gradient_norm = 0.0;              // of the objective per example, before clipping
  };
  Result step(const GradientSum& gradient, const Step& step);

  const OptimizerOptions& options() const noexcept { return options_; }
  /// State arenas [elements] by name, for checkpoints: "mean_first_moment", ...
  std::vector<std::pair<std::string, torch::Tensor>> state() const;

 private:
  void start_ivon();
  void add_informed_decay(double weight);
  kernels::UpdateRule rule_of(const Step& step) const;

  Posterior& posterior_;
  OptimizerOptions options_;
  MomentArenas moments_;
};

}  // namespace credence
