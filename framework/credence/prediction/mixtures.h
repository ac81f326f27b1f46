#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "credence/likelihoods/observation.h"

namespace credence {

/// The posterior predictive of real-valued targets: each an equal mixture, over draws of the weights, of one
/// observation. Quantiles need all of them, so this is what grows with draws: 16 bytes a target and draw.
class Mixtures {
 public:
  Mixtures(const Likelihood& likelihood, std::int64_t targets);

  /// Outputs of one draw, [b, outputs], for the targets from `first` on. Draws are added in order, from 0.
  void add(std::int64_t first, int draw, const torch::Tensor& outputs);

  struct Row {
    double mean = 0.0;
    double aleatoric_variance = 0.0;  // mean over draws of the variance: what remains with known weights
    double epistemic_variance = 0.0;  // variance over draws of the mean, divisor `draws`
    double lower = 0.0, upper = 0.0;  // quantiles at 5 % and 95 %
  };
  Row row(std::int64_t target, int draws) const;

 private:
  ObservationModel model_;
  ObservationModel::Level low_, high_;
  std::int64_t targets_;
  std::vector<std::vector<Observation>> of_draw_;  // [draws][targets]
};

}  // namespace credence
