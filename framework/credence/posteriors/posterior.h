#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/networks/layout.h"
#include "credence/posteriors/arena_kernels.h"
#include "credence/priors/prior.h"

namespace credence {

enum class Family : std::uint8_t { mean_field, point };

/// mean-field | point, and REGEX=... rules. Norm parameters are point estimates without a prior unless a rule names
/// them.
TensorRules<Family> parse_families(const std::vector<std::string>& specs);

/// Which tensors are Gaussian and what prior each has. UserError where a Gaussian tensor has no prior: its scale would
/// grow without bound.
std::vector<kernels::Segment> plan_segments(const Layout& layout, const TensorRules<Family>& families,
                                            const TensorRules<Prior>& priors);

/// Factorised Gaussian over the weights, scale = softplus(raw scale), with point estimates for the tensors that are not
/// Gaussian (Blundell et al. 2015, sec. 3.2). All point: MAP, the deterministic twin.
class Posterior {
 public:
  /// `values` [elements]: initial means; `initial_scale`: standard deviation of every Gaussian weight at the start.
  Posterior(std::vector<kernels::Segment> segments, torch::Tensor values, double initial_scale, int threads);

  std::span<const kernels::Segment> segments() const noexcept { return segments_; }
  bool has_gaussian() const noexcept { return raw_scale_.defined(); }

  const torch::Tensor& mean() const noexcept { return mean_; }            // [elements]
  const torch::Tensor& raw_scale() const noexcept { return raw_scale_; }  // [elements]; undefined without Gaussians
  /// What the network is bound to: the newest draw; the means themselves where nothing is Gaussian.
  const torch::Tensor& weights() const noexcept { return weights_; }
  /// A new arena with standard deviations; zero on point segments.
  torch::Tensor scales();

  /// weights() <- mean + scale * eps. Costs nothing where the newest draw is this one.
  void draw(const kernels::NoiseStream& noise);
  /// The update wrote the draw of `noise` into weights() already, or (nullopt) the means changed without one.
  void set_drawn(const std::optional<kernels::NoiseStream>& noise) { drawn_ = noise; }

  /// Sums per tensor of the present values, of which KL, entropy and log prior are made.
  std::vector<kernels::SegmentSums> measure();

  ArenaKernels& kernels() noexcept { return kernels_; }

 private:
  std::vector<kernels::Segment> segments_;
  ArenaKernels kernels_;
  torch::Tensor mean_;
  torch::Tensor raw_scale_;
  torch::Tensor weights_;
  std::optional<kernels::NoiseStream> drawn_;
};

}  // namespace credence
