// The kernels as CUDA twins: the formulas of formulas_inl.h over one thread's float, the sums in the reference's order.
// One thread block per block of 1,024 elements. Thread t = 16 g + l computes Philox block l of group g and thereby the
// elements 64 g + 16 w + l, w = 0..3, so neighbouring threads touch neighbouring elements.
// Compiled with -fmad=false -prec-div=true -prec-sqrt=true -ftz=false: every rounding is written out.

#include "credence/kernels/cuda_launch.h"

namespace credence::kernels::cuda {

namespace {

struct FloatLane {
  using F = float;
  using U = std::uint32_t;
  using M = bool;

  static __device__ __forceinline__ F set(float x) { return x; }
  static __device__ __forceinline__ F zero() { return 0.0f; }
  static __device__ __forceinline__ U set_bits(std::uint32_t x) { return x; }
  static __device__ __forceinline__ F fma(F a, F b, F c) { return __fmaf_rn(a, b, c); }
  static __device__ __forceinline__ F div(F a, F b) { return __fdiv_rn(a, b); }
  static __device__ __forceinline__ F sqrt(F a) { return __fsqrt_rn(a); }
  static __device__ __forceinline__ F abs(F a) { return fabsf(a); }
  static __device__ __forceinline__ M less(F a, F b) { return a < b; }
  static __device__ __forceinline__ M nonzero(U a) { return a != 0; }
  static __device__ __forceinline__ F select(M m, F a, F b) { return m ? a : b; }
  static __device__ __forceinline__ U bits(F a) { return __float_as_uint(a); }
  static __device__ __forceinline__ F from_bits(U a) { return __uint_as_float(a); }
  static __device__ __forceinline__ F to_float(U a) { return __int2float_rn(static_cast<int>(a)); }
  template <int n>
  static __device__ __forceinline__ U shift_left(U a) {
    return a << n;
  }
  template <int n>
  static __device__ __forceinline__ U shift_right(U a) {
    return a >> n;
  }
  template <int n>
  static __device__ __forceinline__ U shift_right_signed(U a) {
    return static_cast<U>(static_cast<int>(a) >> n);
  }
};

#define CREDENCE_LANE __device__ __forceinline__
#include "credence/kernels/formulas_inl.h"
#undef CREDENCE_LANE

using Math = FloatMath<FloatLane>;
using Formula = Formulas<Math, float>;

constexpr int kWordsPerThread = 4;
constexpr int kThreads = static_cast<int>(kBlock) / kWordsPerThread;

/// The four normal numbers of one Philox block.
__device__ __forceinline__ void normals_of_block(const Noise& noise, std::uint32_t block, float (&normals)[4]) {
  std::uint32_t c0 = block, c1 = noise.step, c2 = noise.shard, c3 = noise.sample;
  std::uint32_t key0 = noise.key0, key1 = noise.key1;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const std::uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  Math::box_muller(c0, c1, noise.sign, normals[0], normals[1]);
  Math::box_muller(c2, c3, noise.sign, normals[2], normals[3]);
}

/// A thread block's share of a call.
struct Place {
  DeviceSegment segment;
  std::int64_t begin;  // first element of the block, counted from the segment's start
};

__device__ __forceinline__ Place place_of(const SegmentTable& table) {
  int low = 0, high = table.count - 1;  // the last segment whose first block is not beyond this one
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_block[middle] <= static_cast<std::int64_t>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {table.segments[low], (static_cast<std::int64_t>(blockIdx.x) - table.first_block[low]) * kBlock};
}

/// Index in the block of word w of this thread.
__device__ __forceinline__ int index_in_block(int w) {
  const int group = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  return static_cast<int>(kNoiseGroup) * group + kLanes * w + lane;
}

/// Number of this thread's Philox block, for a thread block that starts at `element` of the arena.
__device__ __forceinline__ std::uint32_t noise_block(std::int64_t element) {
  return static_cast<std::uint32_t>(element / kNoiseGroup * (kNoiseGroup / 4) + threadIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    draw_kernel(SegmentTable table, const float* __restrict__ mean, const float* __restrict__ raw_scale, Noise noise,
                float* __restrict__ weights) {
  const Place place = place_of(table);
  const std::int64_t element = place.segment.offset + place.begin;
  float eps[kWordsPerThread] = {};
  if (place.segment.gaussian) normals_of_block(noise, noise_block(element), eps);
#pragma unroll
  for (int w = 0; w < kWordsPerThread; ++w) {
    const int i = index_in_block(w);
    if (place.begin + i >= place.segment.count) continue;
    const float value = mean[element + i];
    weights[element + i] = place.segment.gaussian ? Formula::draw(value, raw_scale[element + i], eps[w]) : value;
  }
}

__global__ void __launch_bounds__(kThreads)
    scales_kernel(SegmentTable table, const float* __restrict__ raw_scale, float* __restrict__ scale) {
  const Place place = place_of(table);
  if (!place.segment.gaussian) return;
  const std::int64_t element = place.segment.offset + place.begin;
#pragma unroll
  for (int w = 0; w < kWordsPerThread; ++w) {
    const int i = index_in_block(w);
    if (place.begin + i < place.segment.count) scale[element + i] = Formula::scale(raw_scale[element + i]);
  }
}

/// `sum` and `scaled_sum` at the arena's first element, `gradient` at the segment's.
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(std::int64_t offset, std::int64_t count, const float* __restrict__ gradient, Noise noise,
                      bool accumulate, float* __restrict__ sum, float* __restrict__ scaled_sum) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlock;
  const std::int64_t element = offset + begin;
  float eps[kWordsPerThread] = {};
  if (scaled_sum != nullptr) normals_of_block(noise, noise_block(element), eps);
#pragma unroll
  for (int w = 0; w < kWordsPerThread; ++w) {
    const int i = index_in_block(w);
    if (begin + i >= count) continue;
    const float g = gradient[begin + i];
    sum[element + i] = (accumulate ? sum[element + i] : 0.0f) + g;
    if (scaled_sum == nullptr) continue;
    scaled_sum[element + i] = __fmaf_rn(eps[w], g, accumulate ? scaled_sum[element + i] : 0.0f);
  }
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(std::int64_t count, const float* __restrict__ other, float* __restrict__ sum) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlock;
#pragma unroll
  for (int w = 0; w < kWordsPerThread; ++w) {
    const std::int64_t i = begin + static_cast<std::int64_t>(w) * kThreads + threadIdx.x;
    if (i < count) sum[i] += other[i];
  }
}

template <Rule kRule>
__device__ __forceinline__ void apply_rule(const StepConstants<float>& step, float step_size, float gradient,
                                           float& value, float* first, float* second) {
  gradient = gradient * step.clip_multiplier;
  float m = *first;
  if constexpr (kRule == Rule::adam) {
    float v = *second;
    Formula::adam(step, step_size, gradient, value, m, v);
    *second = v;
  } else if constexpr (kRule == Rule::sgd) {
    Formula::sgd(step, step_size, gradient, value, m);
  } else {
    Formula::lars(step, step_size, gradient, value, m);
  }
  *first = m;
}

/// Sums that a rule takes: the first so many of SegmentSums; the others are zero.
template <Rule kRule>
constexpr int kTakenSums = kRule == Rule::lars ? kSums : 3;

/// One element: terms of its three sums, and its update.
template <Rule kRule>
__device__ __forceinline__ void update_element(const UpdateArguments& a, const DeviceSegment& segment,
                                               std::int64_t element, float gradient, float eps, float next_eps,
                                               float (&terms)[kTakenSums<kRule>]) {
  float mean = a.mean[element], raw = 0.0f, scale = 0.0f, raw_gradient = 0.0f, scaled_gradient = 0.0f;
  const float mean_gradient = Formula::mean_gradient(a.step, segment.constants, mean, gradient);
  terms[0] = 0.0f;
  if (segment.gaussian) {
    raw = a.raw_scale[element];
    const Formula::Scale scale_and_slopes = Formula::scale_and_slopes(raw);
    scaled_gradient = eps * gradient;
    if (a.scaled_gradient != nullptr) {
      scaled_gradient = a.scaled_gradient[element];
    } else if (segment.gradient == nullptr) {
      scaled_gradient = 0.0f;
    }
    raw_gradient = Formula::raw_gradient(a.step, segment.constants, scale_and_slopes, scaled_gradient);
    scale = scale_and_slopes.value;
    terms[0] = Math::log(scale);
  }
  terms[1] = Formula::squared_deviation(segment.constants, mean, scale);
  terms[2] = Formula::squared_gradient(mean_gradient, raw_gradient);
  if constexpr (kRule == Rule::lars) {
    const float likelihood_gradient = gradient * a.step.gradient_multiplier;
    terms[3] = mean * mean;
    terms[4] = likelihood_gradient * likelihood_gradient;
    terms[5] = raw_gradient * raw_gradient;
  }
  if (!a.write) return;
  if constexpr (kRule == Rule::ivon) {
    if (segment.gaussian) {
      Formula::IvonState state{mean, raw, a.mean_first[element], a.scale_first[element]};
      Formula::ivon(a.step, segment.constants, scale, gradient, scaled_gradient, state);
      mean = state.mean;
      raw = state.raw;
      a.mean_first[element] = state.momentum;
      a.scale_first[element] = state.hessian;
    } else {
      Formula::ivon_point(a.step, segment.constants, gradient, mean, a.mean_first[element]);
    }
  } else {
    apply_rule<kRule>(a.step, a.step.mean_step * segment.constants.mean_rate, mean_gradient, mean,
                      a.mean_first + element, a.mean_second + element);
    if (segment.gaussian) {
      apply_rule<kRule>(a.step, a.step.scale_step * segment.constants.scale_rate, raw_gradient, raw,
                        a.scale_first + element, a.scale_second + element);
    }
  }
  a.mean[element] = mean;
  if (segment.gaussian) a.raw_scale[element] = raw;
  if (a.next_weights != nullptr) {
    a.next_weights[element] = segment.gaussian ? Formula::draw(mean, raw, next_eps) : mean;
  }
}

/// Adds the block's terms over the virtual lanes in element order, then the lanes in the tree of combine_lanes().
template <int kTaken>
__device__ __forceinline__ void sum_block(const float (&terms)[kTaken][kBlock], double* block_sums) {
  __shared__ double lanes[kTaken][kLanes];
  const int sum = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool active = sum < kTaken;
  __syncthreads();
  if (active) {
    double total = 0.0;
#pragma unroll 8
    for (int i = lane; i < static_cast<int>(kBlock); i += kLanes) total += static_cast<double>(terms[sum][i]);
    lanes[sum][lane] = total;
  }
  __syncthreads();
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    if (active && lane < half) lanes[sum][lane] += lanes[sum][lane + half];
    __syncthreads();
  }
  if (sum < kSums && lane == 0) {
    block_sums[static_cast<std::int64_t>(blockIdx.x) * kSums + sum] = active ? lanes[sum][0] : 0.0;
  }
}

template <Rule kRule>
__global__ void __launch_bounds__(kThreads) update_kernel(SegmentTable table, UpdateArguments a, double* block_sums) {
  constexpr int kTaken = kTakenSums<kRule>;
  __shared__ float terms[kTaken][kBlock];
  const Place place = place_of(table);
  const DeviceSegment& segment = place.segment;
  const std::int64_t element = segment.offset + place.begin;
  float eps[kWordsPerThread] = {}, next_eps[kWordsPerThread] = {};
  if (segment.gaussian && a.scaled_gradient == nullptr && segment.gradient != nullptr) {
    normals_of_block(a.noise, noise_block(element), eps);
  }
  if (segment.gaussian && a.next_weights != nullptr) normals_of_block(a.next_noise, noise_block(element), next_eps);
#pragma unroll
  for (int w = 0; w < kWordsPerThread; ++w) {
    const int i = index_in_block(w);
    float element_terms[kTaken] = {};  // elements past the end add +0, which changes no sum
    if (place.begin + i < segment.count) {
      const float gradient = segment.gradient == nullptr ? 0.0f : segment.gradient[place.begin + i];
      update_element<kRule>(a, segment, element + i, gradient, eps[w], next_eps[w], element_terms);
    }
    for (int sum = 0; sum < kTaken; ++sum) terms[sum][i] = element_terms[sum];
  }
  sum_block(terms, block_sums);
}

}  // namespace

cudaError_t launch_draw(unsigned blocks, cudaStream_t stream, const SegmentTable& table, const float* mean,
                        const float* raw_scale, const Noise& noise, float* weights) {
  draw_kernel<<<blocks, kThreads, 0, stream>>>(table, mean, raw_scale, noise, weights);
  return cudaGetLastError();
}

cudaError_t launch_scales(unsigned blocks, cudaStream_t stream, const SegmentTable& table, const float* raw_scale,
                          float* scale) {
  scales_kernel<<<blocks, kThreads, 0, stream>>>(table, raw_scale, scale);
  return cudaGetLastError();
}

cudaError_t launch_accumulate(unsigned blocks, cudaStream_t stream, const Segment& segment, const float* gradient,
                              const Noise& noise, bool accumulate, float* sum, float* scaled_sum) {
  accumulate_kernel<<<blocks, kThreads, 0, stream>>>(segment.offset, segment.count, gradient, noise, accumulate, sum,
                                                     scaled_sum);
  return cudaGetLastError();
}

cudaError_t launch_add(unsigned blocks, cudaStream_t stream, std::int64_t count, const float* other, float* sum) {
  add_kernel<<<blocks, kThreads, 0, stream>>>(count, other, sum);
  return cudaGetLastError();
}

cudaError_t launch_update(unsigned blocks, cudaStream_t stream, Rule rule, const SegmentTable& table,
                          const UpdateArguments& arguments, double* block_sums) {
  switch (rule) {
    case Rule::adam:
      update_kernel<Rule::adam><<<blocks, kThreads, 0, stream>>>(table, arguments, block_sums);
      break;
    case Rule::sgd:
      update_kernel<Rule::sgd><<<blocks, kThreads, 0, stream>>>(table, arguments, block_sums);
      break;
    case Rule::ivon:
      update_kernel<Rule::ivon><<<blocks, kThreads, 0, stream>>>(table, arguments, block_sums);
      break;
    case Rule::lars:
      update_kernel<Rule::lars><<<blocks, kThreads, 0, stream>>>(table, arguments, block_sums);
      break;
  }
  return cudaGetLastError();
}

}  // namespace credence::kernels::cuda
