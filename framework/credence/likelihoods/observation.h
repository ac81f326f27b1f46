#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <span>

#include "credence/kernels/noise.h"
#include "credence/likelihoods/likelihood.h"

namespace credence {

/// One real-valued target under one draw of the weights. For counts the location is the rate and the scale its root.
struct Observation {
  double location = 0.0;
  double scale = 1.0;
};

/// The distributions that a regression's predictive mixes over draws.
class ObservationModel {
 public:
  /// InternalError unless is_regression(likelihood).
  explicit ObservationModel(const Likelihood& likelihood);

  /// Of every target, both [B, D] in float64, from the outputs that the likelihood reads.
  struct Tensors {
    torch::Tensor location, scale;
  };
  Tensors of(const torch::Tensor& outputs) const;

  /// Infinite for Student's t with dof <= 2. The mean is the location (the median, for Student's t with dof <= 1).
  double variance(const Observation& observation) const;
  double cdf(double target, const Observation& observation) const;
  /// A probability 0 < p < 1 with the quantile of location 0 and scale 1 (unused for counts).
  struct Level {
    double p = 0.5, standard = 0.0;
  };
  Level level(double p) const;
  /// Of the mixture of all with equal weights, to 1e-10 of the largest scale, by bisection on its distribution
  /// function; for counts the least one whose probability reaches p. NaN where an observation is not finite.
  double quantile(const Level& level, std::span<const Observation> mixture) const;
  /// One target: a function of the stream and the element. Words are taken from the stream's shards 0 and 1.
  double sample(const Observation& observation, kernels::NoiseStream stream, std::int64_t element) const;

 private:
  double mixture_cdf(double target, std::span<const Observation> mixture) const;
  double count_quantile(double p, std::span<const Observation> mixture) const;

  Likelihood likelihood_;
  std::optional<DepthLikelihood> depth_;  // around it
  bool counts_ = false;
  double dof_ = 0.0;  // of Student's t; 0 for the normal distribution
};

/// Uniform in (0, 1), 52 bits, from the stream's shards 0 and 1.
double uniform(kernels::NoiseStream stream, std::int64_t element);

}  // namespace credence
