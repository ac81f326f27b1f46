#pragma once

#include <cstdint>
#include <vector>

#include "credence/kernels/kernel_set.h"

/// The parameters that the kernels are timed on: a mean-field posterior over mlp:1200,1200 on 28x28 images.
namespace credence::experiments {

inline std::vector<kernels::Segment> mlp_segments() {
  std::vector<kernels::Segment> segments;
  std::int64_t offset = 0;
  for (const std::int64_t count : {784 * 1200, 1200, 1200 * 1200, 1200, 1200 * 10, 10}) {
    segments.push_back({.offset = offset, .count = count, .prior_scale = 1.0});
    offset += (count + kernels::kNoiseGroup - 1) / kernels::kNoiseGroup * kernels::kNoiseGroup;
  }
  return segments;
}

inline std::int64_t arena_size(const std::vector<kernels::Segment>& segments) {
  const kernels::Segment& last = segments.back();
  return last.offset + (last.count + kernels::kNoiseGroup - 1) / kernels::kNoiseGroup * kernels::kNoiseGroup;
}

inline std::int64_t element_count(const std::vector<kernels::Segment>& segments) {
  std::int64_t count = 0;
  for (const auto& segment : segments) count += segment.count;
  return count;
}

inline kernels::UpdateRule adam_rule(std::int64_t step) {
  return {.learning_rate = 1e-3,
          .scale_learning_rate = 1e-3,
          .step = step,
          .cross_entropy_weight = 1.0 / 60000,
          .entropy_weight = 1.0 / 60000};
}

// Bytes an element that a kernel has to move, each array read or written once (reads for ownership not counted).
inline constexpr double kDrawBytes = 4 * 3;         // mean, raw scale; weights
inline constexpr double kAccumulateBytes = 4 * 5;   // gradient, two sums; two sums
inline constexpr double kUpdateBytes = 4 * 13;      // mean, raw scale, four moments twice; gradient
inline constexpr double kUpdateDrawBytes = 4 * 14;  // and the weights
inline constexpr double kPointBytes = 4 * 7;        // mean and two moments twice; gradient

}  // namespace credence::experiments
