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

#include "credence/kernels/host_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace credence::kernels::HWY_NAMESPACE {

#if HWY_NATIVE_FMA && HWY_HAVE_FLOAT64 && !HWY_HAVE_SCALABLE && HWY_MAX_BYTES >= 16

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kLanes>;
using Words = hn::RebindToUnsigned<Floats>;
using Signed = hn::RebindToSigned<Floats>;
using Doubles = hn::Repartition<double, Floats>;
using Wide = hn::Repartition<std::uint64_t, Floats>;
constexpr std::int64_t kWidth = hn::MaxLanes(Floats());
constexpr std::int64_t kParts = kLanes / kWidth;  // vectors to a row of 16 elements
using VF = hn::Vec<Floats>;
using VD = hn::Vec<Doubles>;

struct FloatLane {
  using F = VF;
  using U = hn::Vec<Words>;
  using M = hn::Mask<Floats>;

  static HWY_INLINE F set(float x) { return hn::Set(Floats(), x); }
  static HWY_INLINE F zero() { return hn::Zero(Floats()); }
  static HWY_INLINE U set_bits(std::uint32_t x) { return hn::Set(Words(), x); }
  static HWY_INLINE F fma(F a, F b, F c) { return hn::MulAdd(a, b, c); }
  static HWY_INLINE F div(F a, F b) { return hn::Div(a, b); }
  static HWY_INLINE F sqrt(F a) { return hn::Sqrt(a); }
  static HWY_INLINE F abs(F a) { return hn::Abs(a); }
  static HWY_INLINE M less(F a, F b) { return hn::Lt(a, b); }
  static HWY_INLINE M nonzero(U a) { return hn::RebindMask(Floats(), hn::Ne(a, hn::Zero(Words()))); }
  static HWY_INLINE F select(M m, F a, F b) { return hn::IfThenElse(m, a, b); }
  static HWY_INLINE U bits(F a) { return hn::BitCast(Words(), a); }
  static HWY_INLINE F from_bits(U a) { return hn::BitCast(Floats(), a); }
  static HWY_INLINE F to_float(U a) { return hn::ConvertTo(Floats(), hn::BitCast(Signed(), a)); }
  template <int n>
  static HWY_INLINE U shift_left(U a) {
    return hn::ShiftLeft<n>(a);
  }
  template <int n>
  static HWY_INLINE U shift_right(U a) {
    return hn::ShiftRight<n>(a);
  }
  template <int n>
  static HWY_INLINE U shift_right_signed(U a) {
    return hn::BitCast(Words(), hn::ShiftRight<n>(hn::BitCast(Signed(), a)));
  }
};

#define CREDENCE_LANE HWY_INLINE
#include "credence/kernels/formulas_inl.h"
#undef CREDENCE_LANE

using Math = FloatMath<FloatLane>;
using Formula = Formulas<Math, float>;

/// Philox blocks in 64-bit lanes: the multiplier ignores their upper halves, so a product's low word needs no mask.
struct PhiloxLanes {
  using V = hn::Vec<Wide>;
  V c0, c1, c2, c3;

  HWY_INLINE void round(std::uint64_t key0, std::uint64_t key1) {
    const V product0 = hn::MulEven(hn::BitCast(Words(), c0), hn::Set(Words(), 0xD2511F53u));
    const V product1 = hn::MulEven(hn::BitCast(Words(), c2), hn::Set(Words(), 0xCD9E8D57u));
    c0 = hn::Xor3(hn::ShiftRight<32>(product1), c1, hn::Set(Wide(), key0));
    c1 = product1;
    c2 = hn::Xor3(hn::ShiftRight<32>(product0), c3, hn::Set(Wide(), key1));
    c3 = product0;
  }
};

/// Words of the blocks of even and of odd number, side by side.
HWY_INLINE FloatLane::U interleave(hn::Vec<Wide> even, hn::Vec<Wide> odd) {
  return hn::OddEven(hn::BitCast(Words(), hn::ShiftLeft<32>(odd)), hn::BitCast(Words(), even));
}

/// One stream of noise with its key schedule.
class Normals {
 public:
  explicit Normals(const NoiseStream& stream)
      : step_(stream.step), shard_(stream.shard), sample_(stream.sample), sign_(stream.negate ? 0x80000000u : 0u) {
    Key key = stream.key();
    for (int round = 0; round < 10; ++round) {
      key0_[round] = key[0];
      key1_[round] = key[1];
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
  }

  /// The 64 numbers of the group that starts at `element`; `normals` is aligned.
  HWY_INLINE void group(std::int64_t element, float* HWY_RESTRICT normals) const {
    const Wide wide;
    const Floats floats;
    for (std::int64_t part = 0; part < kParts; ++part) {
      const auto first = static_cast<std::uint64_t>(element / kNoiseGroup * kLanes + part * kWidth);
      const auto blocks = hn::ShiftLeft<1>(hn::Iota(wide, 0)) + hn::Set(wide, first);
      const auto shard = hn::Set(wide, shard_);
      PhiloxLanes even{blocks, hn::Set(wide, step_), shard, hn::Set(wide, sample_)};
      PhiloxLanes odd{blocks + hn::Set(wide, 1), even.c1, shard, even.c3};
      HWY_UNROLL(10)
      for (int round = 0; round < 10; ++round) {
        even.round(key0_[round], key1_[round]);
        odd.round(key0_[round], key1_[round]);
      }
      const auto sign = FloatLane::set_bits(sign_);
      VF n0, n1, n2, n3;
      Math::box_muller(interleave(even.c0, odd.c0), interleave(even.c1, odd.c1), sign, n0, n1);
      Math::box_muller(interleave(even.c2, odd.c2), interleave(even.c3, odd.c3), sign, n2, n3);
      float* const out = normals + part * kWidth;
      hn::Store(n0, floats, out);
      hn::Store(n1, floats, out + kLanes);
      hn::Store(n2, floats, out + 2 * kLanes);
      hn::Store(n3, floats, out + 3 * kLanes);
    }
  }

 private:
  std::uint64_t step_, shard_, sample_;
  std::uint32_t sign_;
  std::uint64_t key0_[10], key1_[10];
};

/// Elements [i, i + kWidth) of an array, of which only the first `count` exist; the others read as zero.
template <bool kFull>
HWY_INLINE VF load(const float* pointer, std::int64_t count) {
  if constexpr (kFull) {
    return hn::LoadU(Floats(), pointer);
  } else {
    HWY_ALIGN float buffer[kWidth] = {};
    std::memcpy(buffer, pointer, static_cast<std::size_t>(count) * sizeof(float));
    return hn::Load(Floats(), buffer);
  }
}

template <bool kFull>
HWY_INLINE void store(VF value, float* pointer, std::int64_t count) {
  if constexpr (kFull) {
    hn::StoreU(value, Floats(), pointer);
  } else {
    HWY_ALIGN float buffer[kWidth];
    hn::Store(value, Floats(), buffer);
    std::memcpy(pointer, buffer, static_cast<std::size_t>(count) * sizeof(float));
  }
}

/// Draws `count` <= 64 elements with the normals given.
template <bool kFull>
HWY_INLINE void draw_vector(const float* mean, const float* raw_scale, const float* eps, float* weights,
                            std::int64_t count) {
  const VF value = Formula::draw(load<kFull>(mean, count), load<kFull>(raw_scale, count), hn::Load(Floats(), eps));
  store<kFull>(value, weights, count);
}

void draw(const DrawBlock<float>& b) {
  if (!b.gaussian) {
    std::copy_n(b.mean, b.count, b.weights);
    return;
  }
  const Normals noise(*b.noise);
  HWY_ALIGN float eps[kNoiseGroup];
  for (std::int64_t group = 0; group < b.count; group += kNoiseGroup) {
    noise.group(b.element + group, eps);
    const std::int64_t end = std::min(b.count, group + kNoiseGroup);
    std::int64_t i = group;
    for (; i + kWidth <= end; i += kWidth) {
      draw_vector<true>(b.mean + i, b.raw_scale + i, eps + (i - group), b.weights + i, kWidth);
    }
    if (i < end) draw_vector<false>(b.mean + i, b.raw_scale + i, eps + (i - group), b.weights + i, end - i);
  }
}

template <bool kFull>
HWY_INLINE void add_vector(const float* other, float* sum, std::int64_t count) {
  store<kFull>(load<kFull>(sum, count) + load<kFull>(other, count), sum, count);
}

void add(std::int64_t count, const float* other, float* sum) {
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) add_vector<true>(other + i, sum + i, kWidth);
  if (i < count) add_vector<false>(other + i, sum + i, count - i);
}

template <bool kFull>
HWY_INLINE void accumulate_vector(const AccumulateBlock<float>& b, std::int64_t i, const float* eps,
                                  std::int64_t count) {
  const VF gradient = load<kFull>(b.gradient + i, count);
  const VF zero = hn::Zero(Floats());
  store<kFull>((b.accumulate ? load<kFull>(b.sum + i, count) : zero) + gradient, b.sum + i, count);
  if (b.scaled_sum == nullptr) return;
  const VF scaled = b.accumulate ? load<kFull>(b.scaled_sum + i, count) : zero;
  store<kFull>(hn::MulAdd(hn::Load(Floats(), eps), gradient, scaled), b.scaled_sum + i, count);
}

void accumulate(const AccumulateBlock<float>& block) {
  const AccumulateBlock<float> b = block;
  HWY_ALIGN float eps[kNoiseGroup] = {};
  const Normals noise(*b.noise);
  for (std::int64_t group = 0; group < b.count; group += kNoiseGroup) {
    if (b.scaled_sum != nullptr) noise.group(b.element + group, eps);
    const std::int64_t end = std::min(b.count, group + kNoiseGroup);
    std::int64_t i = group;
    for (; i + kWidth <= end; i += kWidth) accumulate_vector<true>(b, i, eps + (i - group), kWidth);
    if (i < end) accumulate_vector<false>(b, i, eps + (i - group), end - i);
  }
}

void scales(std::int64_t count, const float* raw_scale, float* scale) {
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store<true>(Formula::scale(load<true>(raw_scale + i, kWidth)), scale + i, kWidth);
  }
  if (i < count) store<false>(Formula::scale(load<false>(raw_scale + i, count - i)), scale + i, count - i);
}

/// The 16 virtual lanes of a float64 sum: vector v of a row adds to lanes[2 v] and lanes[2 v + 1].
struct LaneSum {
  VD lanes[2 * kParts];

  LaneSum() {
    for (VD& lane : lanes) lane = hn::Zero(Doubles());
  }

  template <bool kFull>
  HWY_INLINE void add(std::int64_t part, VD lower, VD upper, std::int64_t count) {
    constexpr std::int64_t kHalf = kWidth / 2;
    if constexpr (!kFull) {
      lower = hn::IfThenElseZero(hn::FirstN(Doubles(), static_cast<std::size_t>(std::min(count, kHalf))), lower);
      upper = hn::IfThenElseZero(
          hn::FirstN(Doubles(), static_cast<std::size_t>(std::max<std::int64_t>(count - kHalf, 0))), upper);
    }
    lanes[2 * part] = lanes[2 * part] + lower;
    lanes[2 * part + 1] = lanes[2 * part + 1] + upper;
  }

  double total() const {
    HWY_ALIGN double numbers[kLanes];
    for (int v = 0; v < 2 * kParts; ++v) hn::Store(lanes[v], Doubles(), numbers + v * (kWidth / 2));
    return combine_lanes(numbers);
  }
};

HWY_INLINE VD lower_half(VF x) {
  return hn::PromoteTo(Doubles(), hn::LowerHalf(x));
}
HWY_INLINE VD upper_half(VF x) {
  return hn::PromoteTo(Doubles(), hn::UpperHalf(hn::Half<Floats>(), x));
}
HWY_INLINE VD square(VD x) {
  return x * x;
}

struct Sums {
  LaneSum log_scale, squared_deviation, squared_gradient;
};

/// Optimizer step of one vector of values. Reads and writes the state.
template <Rule kRule, bool kFull>
HWY_INLINE VF apply_rule(const StepConstants<float>& step, float step_size, VF gradient, VF value, float* first,
                         float* second, std::int64_t count) {
  gradient = gradient * FloatLane::set(step.clip_multiplier);
  VF m = load<kFull>(first, count);
  if constexpr (kRule == Rule::adam) {
    VF v = load<kFull>(second, count);
    Formula::adam(step, step_size, gradient, value, m, v);
    store<kFull>(v, second, count);
  } else {
    Formula::sgd(step, step_size, gradient, value, m);
  }
  store<kFull>(m, first, count);
  return value;
}

/// One vector of a point segment.
template <Rule kRule, bool kFull>
HWY_INLINE void update_point(const UpdateBlock<float>& b, std::int64_t i, std::int64_t part, std::int64_t count,
                             Sums& sums) {
  const VF mean = load<kFull>(b.mean + i, count);
  const VF gradient = Formula::mean_gradient(b.step, b.segment, mean, load<kFull>(b.gradient + i, count));
  const VD prior_mean = hn::Set(Doubles(), b.segment.exact_prior_mean);
  sums.squared_deviation.add<kFull>(part, square(lower_half(mean) - prior_mean), square(upper_half(mean) - prior_mean),
                                    count);
  sums.squared_gradient.add<kFull>(part, square(lower_half(gradient)), square(upper_half(gradient)), count);
  if (!b.write) return;
  const VF updated =
      apply_rule<kRule, kFull>(b.step, b.step.mean_step, gradient, mean, b.mean_first + i, b.mean_second + i, count);
  store<kFull>(updated, b.mean + i, count);
  if (b.next_weights != nullptr) store<kFull>(updated, b.next_weights + i, count);
}

/// One vector of a Gaussian segment; eps and next_eps are at the vector's first number.
template <Rule kRule, bool kFull>
HWY_INLINE void update_gaussian(const UpdateBlock<float>& b, std::int64_t i, std::int64_t part, std::int64_t count,
                                const float* eps, const float* next_eps, Sums& sums) {
  const VF mean = load<kFull>(b.mean + i, count);
  const VF raw = load<kFull>(b.raw_scale + i, count);
  const VF gradient = load<kFull>(b.gradient + i, count);
  const Formula::Scale scale = Formula::scale_and_slope(raw);
  const VF scaled_gradient =
      b.scaled_gradient != nullptr ? load<kFull>(b.scaled_gradient + i, count) : hn::Load(Floats(), eps) * gradient;
  const VF mean_gradient = Formula::mean_gradient(b.step, b.segment, mean, gradient);
  const VF raw_gradient = Formula::raw_gradient(b.step, b.segment, scale, scaled_gradient);

  const VF log_scale = Math::log(scale.value);
  sums.log_scale.add<kFull>(part, lower_half(log_scale), upper_half(log_scale), count);
  const VD prior_mean = hn::Set(Doubles(), b.segment.exact_prior_mean);
  sums.squared_deviation.add<kFull>(part, square(lower_half(mean) - prior_mean) + square(lower_half(scale.value)),
                                    square(upper_half(mean) - prior_mean) + square(upper_half(scale.value)), count);
  sums.squared_gradient.add<kFull>(part, square(lower_half(mean_gradient)) + square(lower_half(raw_gradient)),
                                   square(upper_half(mean_gradient)) + square(upper_half(raw_gradient)), count);
  if (!b.write) return;
  const VF new_mean = apply_rule<kRule, kFull>(b.step, b.step.mean_step, mean_gradient, mean, b.mean_first + i,
                                               b.mean_second + i, count);
  const VF new_raw = apply_rule<kRule, kFull>(b.step, b.step.scale_step, raw_gradient, raw, b.scale_first + i,
                                              b.scale_second + i, count);
  store<kFull>(new_mean, b.mean + i, count);
  store<kFull>(new_raw, b.raw_scale + i, count);
  if (b.next_weights != nullptr) {
    store<kFull>(Formula::draw(new_mean, new_raw, hn::Load(Floats(), next_eps)), b.next_weights + i, count);
  }
}

template <Rule kRule, bool kGaussian>
SegmentSums update_block(const UpdateBlock<float>& block) {
  const UpdateBlock<float> b = block;  // a copy whose address nobody else has: stores cannot change it
  const bool noisy = kGaussian && b.scaled_gradient == nullptr;
  const bool draws = kGaussian && b.next_weights != nullptr;
  const Normals noise(noisy ? *b.noise : NoiseStream{});
  const Normals next_noise(draws ? *b.next_noise : NoiseStream{});
  HWY_ALIGN float eps[kNoiseGroup] = {};
  HWY_ALIGN float next_eps[kNoiseGroup] = {};
  Sums sums;
  for (std::int64_t group = 0; group < b.count; group += kNoiseGroup) {
    if (noisy) noise.group(b.element + group, eps);
    if (draws) next_noise.group(b.element + group, next_eps);
    const auto vector = [&](auto full, std::int64_t i, std::int64_t part, std::int64_t count) HWY_ATTR {
      if constexpr (kGaussian) {
        update_gaussian<kRule, full.value>(b, i, part, count, eps + (i - group), next_eps + (i - group), sums);
      } else {
        update_point<kRule, full.value>(b, i, part, count, sums);
      }
    };
    const std::int64_t end = std::min(b.count, group + kNoiseGroup);
    for (std::int64_t row = group; row < end; row += kLanes) {
      HWY_UNROLL(4)
      for (std::int64_t part = 0; part < kParts; ++part) {
        const std::int64_t i = row + part * kWidth;
        if (i + kWidth <= end) {
          vector(std::true_type(), i, part, kWidth);
        } else if (i < end) {
          vector(std::false_type(), i, part, end - i);
        }
      }
    }
  }
  return {sums.log_scale.total(), sums.squared_deviation.total(), sums.squared_gradient.total()};
}

SegmentSums update(const UpdateBlock<float>& b) {
  if (b.rule == Rule::adam) {
    return b.gaussian ? update_block<Rule::adam, true>(b) : update_block<Rule::adam, false>(b);
  }
  return b.gaussian ? update_block<Rule::sgd, true>(b) : update_block<Rule::sgd, false>(b);
}

BlockFunctions<float> functions() {
  return {draw, accumulate, add, update, scales};
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
