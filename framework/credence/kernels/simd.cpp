// The kernels over SIMD vectors, compiled once for each instruction set and chosen at run time. Instruction sets
// without true fused multiply-add, and those whose vectors have no fixed size, leave the work to the reference.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "credence/kernels/simd.cpp"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "credence/kernels/host_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace credence::kernels::HWY_NAMESPACE {

#if HWY_NATIVE_FMA && HWY_HAVE_FLOAT64 && !HWY_HAVE_SCALABLE && HWY_MAX_BYTES >= 16

#include "credence/kernels/simd_lanes_inl.h"
#include "credence/kernels/simd_shapes_inl.h"

void draw(const DrawBlock<float>& block) {
  const DrawBlock<float> b = block;
  if (!b.gaussian) {
    std::copy_n(b.mean, b.count, b.weights);
    return;
  }
  const Normals noise(*b.noise);
  HWY_ALIGN float eps[kStretch];
  for (std::int64_t begin = 0; begin < b.count; begin += kStretch) {
    const std::int64_t end = std::min(b.count, begin + kStretch);
    noise.fill(b.element + begin, end - begin, eps);
    const auto visit = [&](auto shape, std::int64_t i, std::int64_t count) HWY_ATTR {
      using S = decltype(shape);
      const auto value = FormulaOf<S>::draw(S::load(b.mean + i, count), S::load(b.raw_scale + i, count),
                                            S::load(eps + (i - begin), count));
      S::store(value, b.weights + i, count);
    };
    for_shapes(begin, end, visit);
  }
}

void add(std::int64_t count, const float* other, float* sum) {
  for_shapes(0, count, [&](auto shape, std::int64_t i, std::int64_t n) HWY_ATTR {
    using S = decltype(shape);
    S::store(S::load(sum + i, n) + S::load(other + i, n), sum + i, n);
  });
}

void accumulate(const AccumulateBlock<float>& block) {
  const AccumulateBlock<float> b = block;
  HWY_ALIGN float eps[kStretch];
  const Normals noise(*b.noise);
  for (std::int64_t begin = 0; begin < b.count; begin += kStretch) {
    const std::int64_t end = std::min(b.count, begin + kStretch);
    if (b.scaled_sum != nullptr) noise.fill(b.element + begin, end - begin, eps);
    const auto visit = [&](auto shape, std::int64_t i, std::int64_t count) HWY_ATTR {
      using S = decltype(shape);
      using L = typename S::Lane;
      const auto gradient = S::load(b.gradient + i, count);
      S::store((b.accumulate ? S::load(b.sum + i, count) : L::zero()) + gradient, b.sum + i, count);
      if (b.scaled_sum == nullptr) return;
      const auto scaled = b.accumulate ? S::load(b.scaled_sum + i, count) : L::zero();
      S::store(L::fma(S::load(eps + (i - begin), count), gradient, scaled), b.scaled_sum + i, count);
    };
    for_shapes(begin, end, visit);
  }
}

void scales(std::int64_t count, const float* raw_scale, float* scale) {
  for_shapes(0, count, [&](auto shape, std::int64_t i, std::int64_t n) HWY_ATTR {
    using S = decltype(shape);
    S::store(FormulaOf<S>::scale(S::load(raw_scale + i, n)), scale + i, n);
  });
}

/// The 16 virtual lanes of a float64 sum.
struct LaneSum {
  VD lanes[2 * kParts];

  HWY_INLINE void clear() {
    for (VD& lane : lanes) lane = hn::Zero(Doubles());
  }

  /// Adds the terms of elements from `i` on, counted from the block's start.
  template <class S>
  HWY_INLINE void add(std::int64_t i, typename S::F terms, std::int64_t count) {
    S::for_vectors(terms, count, [&](std::int64_t first, VF vector) HWY_ATTR {
      const std::int64_t part = kParts == 1 ? 0 : (i + first) % kLanes / kWidth;
      VD& lower = lanes[2 * part];
      VD& upper = lanes[2 * part + 1];
      lower = lower + hn::PromoteTo(Doubles(), hn::LowerHalf(vector));
      upper = upper + hn::PromoteTo(Doubles(), hn::UpperHalf(hn::Half<Floats>(), vector));
    });
  }

  double total() const {
    HWY_ALIGN double numbers[kLanes];
    for (int v = 0; v < 2 * kParts; ++v) hn::Store(lanes[v], Doubles(), numbers + v * (kWidth / 2));
    return combine_lanes(numbers);
  }
};

struct Sums {
  LaneSum log_scale, squared_deviation, squared_gradient;
  LaneSum squared_mean, squared_mean_gradient, squared_raw_gradient;  // Rule::lars

  void clear() {
    for (LaneSum* sum : {&log_scale, &squared_deviation, &squared_gradient, &squared_mean, &squared_mean_gradient,
                         &squared_raw_gradient}) {
      sum->clear();
    }
  }

  /// What LARS needs of a shape beside the other sums. `gradient` is a sum over shards.
  template <class S>
  HWY_INLINE void add_norms(const UpdateBlock<float>& b, std::int64_t i, std::int64_t count, typename S::F gradient,
                            typename S::F raw_gradient) {
    const auto mean = S::load(b.mean + i, count);
    const auto mean_gradient = gradient * S::Lane::set(b.step.gradient_multiplier);
    squared_mean.template add<S>(i, mean * mean, count);
    squared_mean_gradient.template add<S>(i, mean_gradient * mean_gradient, count);
    squared_raw_gradient.template add<S>(i, raw_gradient * raw_gradient, count);
  }
};

/// Optimizer step of one shape of values. Reads and writes the state.
template <Rule kRule, class S>
HWY_INLINE typename S::F apply_rule(const StepConstants<float>& step, float step_size, typename S::F gradient,
                                    typename S::F value, float* first, float* second, std::int64_t count) {
  gradient = gradient * S::Lane::set(step.clip_multiplier);
  auto m = S::load(first, count);
  if constexpr (kRule == Rule::adam) {
    auto v = S::load(second, count);
    FormulaOf<S>::adam(step, step_size, gradient, value, m, v);
    S::store(v, second, count);
  } else if constexpr (kRule == Rule::sgd) {
    FormulaOf<S>::sgd(step, step_size, gradient, value, m);
  } else {
    FormulaOf<S>::lars(step, step_size, gradient, value, m);
  }
  S::store(m, first, count);
  return value;
}

/// A shape of a point segment.
template <Rule kRule, class S>
HWY_INLINE void update_point(const UpdateBlock<float>& b, std::int64_t i, std::int64_t count, Sums& sums) {
  using Formula = FormulaOf<S>;
  auto mean = S::load(b.mean + i, count);
  const auto sum = S::load(b.gradient + i, count);
  const auto gradient = Formula::mean_gradient(b.step, b.segment, mean, sum);
  const auto zero = S::Lane::zero();
  sums.squared_deviation.template add<S>(i, Formula::squared_deviation(b.segment, mean, zero), count);
  sums.squared_gradient.template add<S>(i, Formula::squared_gradient(gradient, zero), count);
  if constexpr (kRule == Rule::lars) sums.template add_norms<S>(b, i, count, sum, zero);
  if (!b.write) return;
  if constexpr (kRule == Rule::ivon) {
    auto momentum = S::load(b.mean_first + i, count);
    Formula::ivon_point(b.step, b.segment, sum, mean, momentum);
    S::store(momentum, b.mean_first + i, count);
  } else {
    mean = apply_rule<kRule, S>(b.step, b.step.mean_step * b.segment.mean_rate, gradient, mean, b.mean_first + i,
                                b.mean_second + i, count);
  }
  S::store(mean, b.mean + i, count);
  if (b.next_weights != nullptr) S::store(mean, b.next_weights + i, count);
}

/// What the phases of a stretch leave each other. Every array begins with the stretch's first element.
struct Stretch {
  std::int64_t begin, end;  // counted from the block's start
  const float* eps;         // of this draw, then of the next
  HWY_ALIGN float made_eps[kStretch];
  HWY_ALIGN float scale[kStretch], slope[kStretch], log_slope[kStretch];
  HWY_ALIGN float mean_gradient[kStretch], raw_gradient[kStretch];

  /// Calls visit(shape, first element counted from the block's start, the same from the stretch's, elements).
  template <class Visit>
  HWY_INLINE void for_shapes(const Visit& visit) const {
    kernels::HWY_NAMESPACE::for_shapes(begin, end, [&](auto shape, std::int64_t i, std::int64_t count) HWY_ATTR {
      visit(shape, i, i - begin, count);
    });
  }
};

HWY_INLINE void find_slopes(const UpdateBlock<float>& b, Stretch& s) {
  s.for_shapes([&](auto shape, std::int64_t i, std::int64_t at, std::int64_t count) HWY_ATTR {
    using S = decltype(shape);
    const auto scale = FormulaOf<S>::scale_and_slopes(S::load(b.raw_scale + i, count));
    S::store(scale.value, s.scale + at, count);
    S::store(scale.slope, s.slope + at, count);
    S::store(scale.log_slope, s.log_slope + at, count);
  });
}

template <class S>
HWY_INLINE typename S::F scaled_gradient_of(const UpdateBlock<float>& b, const Stretch& s, std::int64_t i,
                                            typename S::F gradient, std::int64_t count) {
  return b.scaled_gradient != nullptr ? S::load(b.scaled_gradient + i, count)
                                      : S::load(s.eps + (i - s.begin), count) * gradient;
}

/// Gradients of the objective, and the sums.
template <Rule kRule>
HWY_INLINE void find_gradients(const UpdateBlock<float>& b, Stretch& s, Sums& sums) {
  s.for_shapes([&](auto shape, std::int64_t i, std::int64_t at, std::int64_t count) HWY_ATTR {
    using S = decltype(shape);
    using Formula = FormulaOf<S>;
    const auto mean = S::load(b.mean + i, count);
    const auto gradient = S::load(b.gradient + i, count);
    const typename Formula::Scale scale{S::load(s.scale + at, count), S::load(s.slope + at, count),
                                        S::load(s.log_slope + at, count)};
    const auto scaled_gradient = scaled_gradient_of<S>(b, s, i, gradient, count);
    const auto mean_gradient = Formula::mean_gradient(b.step, b.segment, mean, gradient);
    const auto raw_gradient = Formula::raw_gradient(b.step, b.segment, scale, scaled_gradient);
    sums.log_scale.template add<S>(i, FloatMath<typename S::Lane>::log(scale.value), count);
    sums.squared_deviation.template add<S>(i, Formula::squared_deviation(b.segment, mean, scale.value), count);
    sums.squared_gradient.template add<S>(i, Formula::squared_gradient(mean_gradient, raw_gradient), count);
    if constexpr (kRule == Rule::lars) sums.template add_norms<S>(b, i, count, gradient, raw_gradient);
    S::store(mean_gradient, s.mean_gradient + at, count);
    S::store(raw_gradient, s.raw_gradient + at, count);
  });
}

template <Rule kRule>
HWY_INLINE void apply_gradients(const UpdateBlock<float>& b, const Stretch& s) {
  s.for_shapes([&](auto shape, std::int64_t i, std::int64_t at, std::int64_t count) HWY_ATTR {
    using S = decltype(shape);
    using Formula = FormulaOf<S>;
    typename Formula::IvonState state{S::load(b.mean + i, count), S::load(b.raw_scale + i, count), {}, {}};
    if constexpr (kRule == Rule::ivon) {
      const auto gradient = S::load(b.gradient + i, count);
      const auto scaled_gradient = scaled_gradient_of<S>(b, s, i, gradient, count);
      state.momentum = S::load(b.mean_first + i, count);
      state.hessian = S::load(b.scale_first + i, count);
      Formula::ivon(b.step, b.segment, S::load(s.scale + at, count), gradient, scaled_gradient, state);
      S::store(state.momentum, b.mean_first + i, count);
      S::store(state.hessian, b.scale_first + i, count);
    } else {
      state.mean =
          apply_rule<kRule, S>(b.step, b.step.mean_step * b.segment.mean_rate, S::load(s.mean_gradient + at, count),
                               state.mean, b.mean_first + i, b.mean_second + i, count);
      state.raw =
          apply_rule<kRule, S>(b.step, b.step.scale_step * b.segment.scale_rate, S::load(s.raw_gradient + at, count),
                               state.raw, b.scale_first + i, b.scale_second + i, count);
    }
    S::store(state.mean, b.mean + i, count);
    S::store(state.raw, b.raw_scale + i, count);
  });
}

HWY_INLINE void draw_next(const UpdateBlock<float>& b, const Stretch& s) {
  s.for_shapes([&](auto shape, std::int64_t i, std::int64_t at, std::int64_t count) HWY_ATTR {
    using S = decltype(shape);
    S::store(
        FormulaOf<S>::draw(S::load(b.mean + i, count), S::load(b.raw_scale + i, count), S::load(s.eps + at, count)),
        b.next_weights + i, count);
  });
}

/// A Gaussian block goes through its stretches in phases. All formulas of an element in a row are one chain of some
/// hundred dependent operations, longer than a processor looks ahead; a phase's are short, so that many overlap, and
/// what they leave each other stays in the first-level cache.
template <Rule kRule>
void update_gaussian(const UpdateBlock<float>& b, Sums& sums) {
  const bool makes_noise = b.scaled_gradient == nullptr && b.eps == nullptr;
  const bool draws = b.write && b.next_weights != nullptr;
  const Normals noise(makes_noise ? *b.noise : NoiseStream{});
  const Normals next_noise(draws ? *b.next_noise : NoiseStream{});
  Stretch s;
  for (std::int64_t begin = 0; begin < b.count; begin += kStretch) {
    s.begin = begin;
    s.end = std::min(b.count, begin + kStretch);
    s.eps = b.eps != nullptr ? b.eps + begin : s.made_eps;
    if (makes_noise) noise.fill(b.element + begin, s.end - begin, s.made_eps);
    find_slopes(b, s);
    find_gradients<kRule>(b, s, sums);
    if (!b.write) continue;
    apply_gradients<kRule>(b, s);
    if (!draws) continue;
    float* const next_eps = b.next_eps != nullptr ? b.next_eps + begin : s.made_eps;
    next_noise.fill(b.element + begin, s.end - begin, next_eps);
    s.eps = next_eps;
    draw_next(b, s);
  }
}

template <Rule kRule, bool kGaussian>
SegmentSums update_block(const UpdateBlock<float>& block) {
  const UpdateBlock<float> b = block;  // a copy whose address nobody else has: stores cannot change it
  Sums sums;
  sums.clear();
  if constexpr (kGaussian) {
    update_gaussian<kRule>(b, sums);
  } else {
    for_shapes(0, b.count, [&](auto shape, std::int64_t i, std::int64_t count) HWY_ATTR {
      update_point<kRule, decltype(shape)>(b, i, count, sums);
    });
  }
  return {sums.log_scale.total(),    sums.squared_deviation.total(),     sums.squared_gradient.total(),
          sums.squared_mean.total(), sums.squared_mean_gradient.total(), sums.squared_raw_gradient.total()};
}

template <Rule kRule>
SegmentSums update_with(const UpdateBlock<float>& b) {
  return b.gaussian ? update_block<kRule, true>(b) : update_block<kRule, false>(b);
}

SegmentSums update(const UpdateBlock<float>& b) {
  switch (b.rule) {
    case Rule::adam:
      return update_with<Rule::adam>(b);
    case Rule::sgd:
      return update_with<Rule::sgd>(b);
    case Rule::ivon:
      return update_with<Rule::ivon>(b);
    case Rule::lars:
      return update_with<Rule::lars>(b);
  }
  return {};
}

BlockFunctions<float> functions() {
  return {draw, accumulate, add, update, scales, true};
}

#else

BlockFunctions<float> functions() {
  return {};
}

#endif

}  // namespace credence::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace credence::kernels {

HWY_EXPORT(functions);

BlockFunctions<float> simd_functions() {
  return HWY_DYNAMIC_DISPATCH(functions)();
}

}  // namespace credence::kernels
#endif
