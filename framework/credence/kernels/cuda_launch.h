#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "credence/kernels/plan.h"

/// The border between host code and device code: arguments of the CUDA kernels and the functions that start them.
/// Every function enqueues one kernel of `blocks` > 0 thread blocks and returns the status of its start.
namespace credence::kernels::cuda {

/// A NoiseStream as a kernel's argument; `sign` is 0 or 2^31.
struct Noise {
  std::uint32_t key0, key1, step, shard, sample, sign;
};

/// What the device needs of a segment.
struct DeviceSegment {
  std::int64_t offset, count;
  const float* gradient;  // at the segment's first element; null counts as zeros
  SegmentConstants<float> constants;
  bool gaussian;
};

/// Segments of a call in device memory, with the index of each one's first block.
struct SegmentTable {
  const DeviceSegment* segments;
  const std::int64_t* first_block;
  int count;
};

/// Arguments of the update beside the segments; arrays at the arena's first element.
struct UpdateArguments {
  StepConstants<float> step;
  float *mean, *raw_scale, *mean_first, *mean_second, *scale_first, *scale_second;
  const float* scaled_gradient;  // null: rebuilt from noise
  float* next_weights;           // may be null
  Noise noise, next_noise;
  bool write;
};

/// Sums of a thread block: those of SegmentSums, in its order.
inline constexpr int kSums = 6;

cudaError_t launch_draw(unsigned blocks, cudaStream_t stream, const SegmentTable& table, const float* mean,
                        const float* raw_scale, const Noise& noise, float* weights);
cudaError_t launch_scales(unsigned blocks, cudaStream_t stream, const SegmentTable& table, const float* raw_scale,
                          float* scale);
/// One segment; `gradient` at its first element, the sums at the arena's. `scaled_sum` may be null.
cudaError_t launch_accumulate(unsigned blocks, cudaStream_t stream, const Segment& segment, const float* gradient,
                              const Noise& noise, bool accumulate, float* sum, float* scaled_sum);
cudaError_t launch_add(unsigned blocks, cudaStream_t stream, std::int64_t count, const float* other, float* sum);
/// Writes kSums numbers a block to `block_sums`.
cudaError_t launch_update(unsigned blocks, cudaStream_t stream, Rule rule, const SegmentTable& table,
                          const UpdateArguments& arguments, double* block_sums);

}  // namespace credence::kernels::cuda
