#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "credence/estimators/objective.h"
#include "credence/posteriors/posterior.h"

namespace credence {

struct OptimizerOptions {
  kernels::Rule rule = kernels::Rule::adam;
  double learning_rate = 5e-3;
  double scale_learning_rate = 5e-3;  // of the raw scales
  double beta1 = 0.9;                 // Adam; for SGD the momentum
  double beta2 = 0.999;
  double epsilon = 1e-8;
  std::optional<double> clip_norm{};  // of the objective's gradient over all optimised values
};

/// Adam (Kingma and Ba 2015) or SGD with momentum over (mean, raw scale), every element of all state in one pass of
/// memory, prior and entropy gradients included.
class Optimizer {
 public:
  Optimizer(Posterior& posterior, const OptimizerOptions& options);

  struct Step {
    std::int64_t number = 0;                        // from 0
    double learning_rate_factor = 1.0;              // of the schedule
    double gradient_multiplier = 1.0;               // what makes means of the sums
    Objective::Weights weights;                     // of the objective, not yet divided by N
    std::int64_t dataset_size = 1;                  // N
    std::optional<kernels::NoiseStream> next_draw;  // also written in the same pass
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
  Posterior& posterior_;
  OptimizerOptions options_;
  MomentArenas moments_;
};

}  // namespace credence
