// The oracle: one element after the other, in the order that the interface promises.

#include <algorithm>

#include "credence/kernels/host_kernels.h"
#include "credence/kernels/scalar.h"

namespace credence::kernels {

namespace {

template <class T>
using Math = typename scalar::MathOf<T>::Type;
template <class T>
using Formulas = scalar::Formulas<Math<T>, T>;

/// Calls visit(i, eps) for the elements of a block; eps is 0 without noise.
template <class T, class Visit>
void for_elements(std::int64_t element, std::int64_t count, const NoiseStream* noise, const Visit& visit) {
  float eps[kNoiseGroup] = {};
  for (std::int64_t group = 0; group < count; group += kNoiseGroup) {
    if (noise != nullptr) scalar::normals_of_group(*noise, element + group, eps);
    const std::int64_t end = std::min(count, group + kNoiseGroup);
    for (std::int64_t i = group; i < end; ++i) visit(i, static_cast<T>(eps[i - group]));
  }
}

template <class T>
void draw(const DrawBlock<T>& b) {
  if (!b.gaussian) {
    std::copy_n(b.mean, b.count, b.weights);
    return;
  }
  for_elements<T>(b.element, b.count, b.noise,
                  [&](std::int64_t i, T eps) { b.weights[i] = Formulas<T>::draw(b.mean[i], b.raw_scale[i], eps); });
}

template <class T>
void accumulate(const AccumulateBlock<T>& b) {
  const NoiseStream* noise = b.scaled_sum == nullptr ? nullptr : b.noise;
  for_elements<T>(b.element, b.count, noise, [&](std::int64_t i, T eps) {
    const T gradient = b.gradient[i];
    b.sum[i] = (b.accumulate ? b.sum[i] : T(0)) + gradient;
    if (b.scaled_sum != nullptr) b.scaled_sum[i] = Math<T>::fma(eps, gradient, b.accumulate ? b.scaled_sum[i] : T(0));
  });
}

template <class T>
void add(std::int64_t count, const T* other, T* sum) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += other[i];
}

template <class T>
void scales(std::int64_t count, const T* raw_scale, T* scale) {
  for (std::int64_t i = 0; i < count; ++i) scale[i] = Formulas<T>::scale(raw_scale[i]);
}

template <class T>
void apply_rule(const UpdateBlock<T>& b, T step_size, T gradient, T& value, T* first, T* second) {
  gradient *= b.step.clip_multiplier;
  if (b.rule == Rule::adam) {
    Formulas<T>::adam(b.step, step_size, gradient, value, *first, *second);
  } else if (b.rule == Rule::sgd) {
    Formulas<T>::sgd(b.step, step_size, gradient, value, *first);
  } else {
    Formulas<T>::lars(b.step, step_size, gradient, value, *first);
  }
}

template <class T>
void apply_ivon(const UpdateBlock<T>& b, std::int64_t i, T scale, T scaled_gradient) {
  using F = Formulas<T>;
  if (!b.gaussian) {
    F::ivon_point(b.step, b.segment, b.gradient[i], b.mean[i], b.mean_first[i]);
    return;
  }
  typename F::IvonState state{b.mean[i], b.raw_scale[i], b.mean_first[i], b.scale_first[i]};
  F::ivon(b.step, b.segment, scale, b.gradient[i], scaled_gradient, state);
  b.mean[i] = state.mean;
  b.raw_scale[i] = state.raw;
  b.mean_first[i] = state.momentum;
  b.scale_first[i] = state.hessian;
}

struct LaneSums {
  double log_scale[kLanes] = {};
  double squared_deviation[kLanes] = {};
  double squared_gradient[kLanes] = {};
  double squared_mean[kLanes] = {};
  double squared_mean_gradient[kLanes] = {};
  double squared_raw_gradient[kLanes] = {};
};

template <class T>
void update_element(const UpdateBlock<T>& b, std::int64_t i, T eps, LaneSums& sums) {
  using F = Formulas<T>;
  const std::int64_t lane = i % kLanes;
  const T mean_gradient = F::mean_gradient(b.step, b.segment, b.mean[i], b.gradient[i]);
  T scale = T(0), raw_gradient = T(0), scaled_gradient = T(0);
  if (b.gaussian) {
    const auto scale_and_slopes = F::scale_and_slopes(b.raw_scale[i]);
    scaled_gradient = b.scaled_gradient != nullptr ? b.scaled_gradient[i] : eps * b.gradient[i];
    raw_gradient = F::raw_gradient(b.step, b.segment, scale_and_slopes, scaled_gradient);
    scale = scale_and_slopes.value;
    sums.log_scale[lane] += static_cast<double>(Math<T>::log(scale));
  }
  sums.squared_deviation[lane] += static_cast<double>(F::squared_deviation(b.segment, b.mean[i], scale));
  sums.squared_gradient[lane] += static_cast<double>(F::squared_gradient(mean_gradient, raw_gradient));
  if (b.rule == Rule::lars) {
    const T likelihood_gradient = b.gradient[i] * b.step.gradient_multiplier;
    sums.squared_mean[lane] += static_cast<double>(b.mean[i] * b.mean[i]);
    sums.squared_mean_gradient[lane] += static_cast<double>(likelihood_gradient * likelihood_gradient);
    sums.squared_raw_gradient[lane] += static_cast<double>(raw_gradient * raw_gradient);
  }
  if (!b.write) return;
  if (b.rule == Rule::ivon) {
    apply_ivon(b, i, scale, scaled_gradient);
    return;
  }
  apply_rule(b, b.step.mean_step * b.segment.mean_rate, mean_gradient, b.mean[i], b.mean_first + i, b.mean_second + i);
  if (b.gaussian) {
    apply_rule(b, b.step.scale_step * b.segment.scale_rate, raw_gradient, b.raw_scale[i], b.scale_first + i,
               b.scale_second + i);
  }
}

template <class T>
SegmentSums update(const UpdateBlock<T>& b) {
  LaneSums sums;
  const bool noisy = b.gaussian && b.scaled_gradient == nullptr;
  for_elements<T>(b.element, b.count, noisy ? b.noise : nullptr,
                  [&](std::int64_t i, T eps) { update_element(b, i, eps, sums); });
  if (b.next_weights != nullptr) {
    draw(DrawBlock<T>{b.gaussian, b.element, b.count, b.mean, b.raw_scale, b.next_noise, b.next_weights});
  }
  return {combine_lanes(sums.log_scale),
          combine_lanes(sums.squared_deviation),
          combine_lanes(sums.squared_gradient),
          combine_lanes(sums.squared_mean),
          combine_lanes(sums.squared_mean_gradient),
          combine_lanes(sums.squared_raw_gradient)};
}

}  // namespace

template <class T>
BlockFunctions<T> reference_functions() {
  return {draw<T>, accumulate<T>, add<T>, update<T>, scales<T>, false};
}

template BlockFunctions<float> reference_functions();
template BlockFunctions<double> reference_functions();

}  // namespace credence::kernels
