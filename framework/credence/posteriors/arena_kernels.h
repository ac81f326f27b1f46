#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "credence/kernels/kernel_set.h"

namespace credence {

/// The gradients of an arena's segments.
struct GradientSum {
  struct Place {
    std::size_t slot = 0;
    std::int64_t first = 0;  // element of the slot
  };
  std::vector<torch::Tensor> slots;  // contiguous; empty: no gradients
  std::vector<Place> places;         // where that of each segment begins; empty: a slot each, from its start
  torch::Tensor scaled;              // sum of eps * gradient over the arena; undefined: rebuild from `noise`
  kernels::NoiseStream noise;        // the one draw behind `slots` where `scaled` is undefined
};

/// Optimizer state over the arena; undefined where the rule has none.
struct MomentArenas {
  torch::Tensor mean_first, mean_second, scale_first, scale_second;
};

/// The kernels for tensors of one element type on one device: the bridge from LibTorch tensors to kernels::KernelSet.
class ArenaKernels {
 public:
  ArenaKernels(torch::Dtype dtype, torch::Device device, int threads);

  void draw(std::span<const kernels::Segment> segments, const torch::Tensor& mean, const torch::Tensor& raw_scale,
            const kernels::NoiseStream& noise, const torch::Tensor& weights);
  void accumulate(const kernels::Segment& segment, const torch::Tensor& gradient, const kernels::NoiseStream& noise,
                  bool accumulate, const torch::Tensor& sum, const torch::Tensor& scaled_sum);
  void add(const kernels::Segment& segment, const torch::Tensor& other, const torch::Tensor& sum);
  std::vector<kernels::SegmentSums> update(std::span<const kernels::Segment> segments, const kernels::UpdateRule& rule,
                                           const torch::Tensor& mean, const torch::Tensor& raw_scale,
                                           const MomentArenas& moments, const GradientSum& gradient,
                                           const torch::Tensor& next_weights, const kernels::NoiseStream& next_noise);
  std::vector<kernels::SegmentSums> measure(std::span<const kernels::Segment> segments, const kernels::UpdateRule& rule,
                                            const torch::Tensor& mean, const torch::Tensor& raw_scale,
                                            const GradientSum& gradient);
  void scales(std::span<const kernels::Segment> segments, const torch::Tensor& raw_scale, const torch::Tensor& scale);
  /// What update() keeps from one call to the next.
  std::int64_t kept_bytes(std::span<const kernels::Segment> segments) const;

 private:
  std::variant<std::unique_ptr<kernels::KernelSet<float>>, std::unique_ptr<kernels::KernelSet<double>>> kernels_;
};

}  // namespace credence
