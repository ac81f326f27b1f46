#pragma once

#include "credence/kernels/kernel_set.h"
#include "credence/kernels/plan.h"

/// Kernels on the processor: block functions of one instruction set, and the threads that run them.
namespace credence::kernels {

/// One block of draw() and scales(). All pointers are at the block's first element; `element` counts from the arena's
/// start.
template <class T>
struct DrawBlock {
  bool gaussian;
  std::int64_t element, count;
  const T* mean;
  const T* raw_scale;
  const NoiseStream* noise;
  T* weights;
};

template <class T>
struct AccumulateBlock {
  bool accumulate;
  std::int64_t element, count;
  const T* gradient;
  const NoiseStream* noise;  // used where scaled_sum is not null
  T* sum;
  T* scaled_sum;
};

template <class T>
struct UpdateBlock {
  bool gaussian;
  bool write;  // false: only the sums
  Rule rule;
  std::int64_t element, count;
  StepConstants<T> step;
  SegmentConstants<T> segment;
  T *mean, *raw_scale, *mean_first, *mean_second, *scale_first, *scale_second;
  const T* gradient;         // never null
  const T* scaled_gradient;  // null: gradient times the noise
  const NoiseStream* noise;
  T* next_weights;
  const NoiseStream* next_noise;
  const T* eps;  // the numbers of `noise`; null: to be made
  T* next_eps;   // not null: those of next_noise are left here; aligned to 64 bytes, room for kBlock; may be eps itself
};

template <class T>
struct BlockFunctions {
  void (*draw)(const DrawBlock<T>&);
  void (*accumulate)(const AccumulateBlock<T>&);
  void (*add)(std::int64_t count, const T* other, T* sum);
  SegmentSums (*update)(const UpdateBlock<T>&);
  void (*scales)(std::int64_t count, const T* raw_scale, T* scale);
  bool keeps_noise;  // whether update() looks at eps and next_eps
};

template <class T>
BlockFunctions<T> reference_functions();

/// Those of the best instruction set of this processor that has true fused multiply-add; null pointers where none has.
BlockFunctions<float> simd_functions();

template <class T>
std::unique_ptr<KernelSet<T>> host_kernels(std::string_view name, const BlockFunctions<T>& functions, int threads);

}  // namespace credence::kernels
