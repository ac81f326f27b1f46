// Lane types of SIMD vectors and the noise over them. No include guard: part of simd.cpp, once for each instruction
// set, inside its namespace.

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

/// Two vectors at once. A formula is one long chain of dependent operations; two chains side by side keep the
/// processor busy.
struct PairLane {
  struct F {
    VF a, b;
    friend HWY_INLINE F operator+(F x, F y) { return {x.a + y.a, x.b + y.b}; }
    friend HWY_INLINE F operator-(F x, F y) { return {x.a - y.a, x.b - y.b}; }
    friend HWY_INLINE F operator*(F x, F y) { return {x.a * y.a, x.b * y.b}; }
  };
  struct U {
    FloatLane::U a, b;
    friend HWY_INLINE U operator+(U x, U y) { return {x.a + y.a, x.b + y.b}; }
    friend HWY_INLINE U operator-(U x, U y) { return {x.a - y.a, x.b - y.b}; }
    friend HWY_INLINE U operator&(U x, U y) { return {x.a & y.a, x.b & y.b}; }
    friend HWY_INLINE U operator^(U x, U y) { return {x.a ^ y.a, x.b ^ y.b}; }
  };
  struct M {
    FloatLane::M a, b;
  };
  using One = FloatLane;

  static HWY_INLINE F set(float x) { return {One::set(x), One::set(x)}; }
  static HWY_INLINE F zero() { return {One::zero(), One::zero()}; }
  static HWY_INLINE U set_bits(std::uint32_t x) { return {One::set_bits(x), One::set_bits(x)}; }
  static HWY_INLINE F fma(F x, F y, F z) { return {One::fma(x.a, y.a, z.a), One::fma(x.b, y.b, z.b)}; }
  static HWY_INLINE F div(F x, F y) { return {One::div(x.a, y.a), One::div(x.b, y.b)}; }
  static HWY_INLINE F sqrt(F x) { return {One::sqrt(x.a), One::sqrt(x.b)}; }
  static HWY_INLINE F abs(F x) { return {One::abs(x.a), One::abs(x.b)}; }
  static HWY_INLINE M less(F x, F y) { return {One::less(x.a, y.a), One::less(x.b, y.b)}; }
  static HWY_INLINE M nonzero(U x) { return {One::nonzero(x.a), One::nonzero(x.b)}; }
  static HWY_INLINE F select(M m, F x, F y) { return {One::select(m.a, x.a, y.a), One::select(m.b, x.b, y.b)}; }
  static HWY_INLINE U bits(F x) { return {One::bits(x.a), One::bits(x.b)}; }
  static HWY_INLINE F from_bits(U x) { return {One::from_bits(x.a), One::from_bits(x.b)}; }
  static HWY_INLINE F to_float(U x) { return {One::to_float(x.a), One::to_float(x.b)}; }
  template <int n>
  static HWY_INLINE U shift_left(U x) {
    return {One::shift_left<n>(x.a), One::shift_left<n>(x.b)};
  }
  template <int n>
  static HWY_INLINE U shift_right(U x) {
    return {One::shift_right<n>(x.a), One::shift_right<n>(x.b)};
  }
  template <int n>
  static HWY_INLINE U shift_right_signed(U x) {
    return {One::shift_right_signed<n>(x.a), One::shift_right_signed<n>(x.b)};
  }
};

#define CREDENCE_LANE HWY_INLINE
#include "credence/kernels/formulas_inl.h"
#undef CREDENCE_LANE

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

  /// The numbers of elements [element, element + count), rounded up to whole groups; `normals` is aligned.
  void fill(std::int64_t element, std::int64_t count, float* HWY_RESTRICT normals) const {
    for (std::int64_t i = 0; i < count; i += kNoiseGroup) group(element + i, normals + i);
  }

 private:
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
      const PairLane::U radius{interleave(even.c0, odd.c0), interleave(even.c2, odd.c2)};
      const PairLane::U angle{interleave(even.c1, odd.c1), interleave(even.c3, odd.c3)};
      PairLane::F cosines, sines;
      FloatMath<PairLane>::box_muller(radius, angle, PairLane::set_bits(sign_), cosines, sines);
      float* const out = normals + part * kWidth;
      hn::Store(cosines.a, floats, out);
      hn::Store(sines.a, floats, out + kLanes);
      hn::Store(cosines.b, floats, out + 2 * kLanes);
      hn::Store(sines.b, floats, out + 3 * kLanes);
    }
  }

  std::uint64_t step_, shard_, sample_;
  std::uint32_t sign_;
  std::uint64_t key0_[10], key1_[10];
};
