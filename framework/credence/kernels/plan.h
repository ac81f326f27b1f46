#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "credence/kernels/kernel_set.h"

/// What every implementation shares: the cut of segments into blocks, the scalars of a step, the order of sums.
namespace credence::kernels {

/// Elements of a block; sums are taken block by block, counted from the segment's start.
inline constexpr std::int64_t kBlock = 1024;
/// Virtual lanes of a block's sums: element i of a block adds to lane i % kLanes, in order.
inline constexpr int kLanes = 16;
static_assert(kSumStretch % kBlock == 0, "a stretch is made of whole blocks");

/// Scalars of one step, computed in double and rounded to T once: the same for every implementation.
template <class T>
struct StepConstants {
  T gradient_multiplier, entropy_weight, clip_multiplier;
  T first_rate, beta2, second_rate, inverse_root_bias2, epsilon;  // Adam: 1 - beta1, beta2, 1 - beta2, ...
  T momentum;                                                     // SGD, LARS
  T hess_init, clip_radius, inverse_bias1;                        // IVON
  T mean_step, scale_step;                                        // learning rates, Adam: debiased
};

template <class T>
struct SegmentConstants {
  T prior_mean;
  T prior_curvature;        // cross_entropy_weight / prior_scale^2, IVON's weight decay; 0 without a prior
  T least_precision;        // IVON: the Hessian and weight decay together count as no less
  T mean_rate, scale_rate;  // factors on the learning rates
};

template <class T>
StepConstants<T> step_constants(const UpdateRule& rule);
/// Of every segment.
template <class T>
std::vector<SegmentConstants<T>> all_segment_constants(std::span<const Segment> segments, const UpdateRule& rule);

/// A stretch of at most kBlock elements of one segment.
struct Block {
  std::int64_t index;    // among all blocks of the call
  std::size_t segment;   // index into the call's segments
  std::int64_t begin;    // first element, counted from the segment's start
  std::int64_t element;  // the same, counted from the arena's start; a multiple of kNoiseGroup
  std::int64_t count;
};

/// All blocks of a call in order. Keeps a view of the segments. UserError for segments that break their contract.
class BlockPlan {
 public:
  explicit BlockPlan(std::span<const Segment> segments);

  std::int64_t size() const { return first_block_.back(); }
  Block at(std::int64_t index) const;
  std::span<const Segment> segments() const { return segments_; }
  /// For each segment the index of its first block, and one past the last: segments + 1 numbers.
  std::span<const std::int64_t> first_blocks() const { return {first_block_.data(), first_block_.size()}; }
  /// Sums of segments from the sums of blocks, in the order of SegmentSums.
  std::vector<SegmentSums> combine(std::span<const SegmentSums> block_sums) const;

 private:
  std::span<const Segment> segments_;
  std::vector<std::int64_t> first_block_;
};

/// The fixed tree over the virtual lanes: halves are added until one number is left. Overwrites `lanes`.
inline double combine_lanes(double (&lanes)[kLanes]) {
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

/// What update() and measure() have in common demands: InternalError for missing arrays.
template <class T>
void check_arrays(std::span<const Segment> segments, const UpdateRule& rule, const UpdateArrays<T>& arrays, bool write);

}  // namespace credence::kernels
