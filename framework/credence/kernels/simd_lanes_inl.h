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

/// Two of a lane type at once. A formula is one long chain of dependent operations; chains side by side keep the
/// processor busy.
template <class L>
struct PairOf {
  struct F {
    typename L::F a, b;
    friend HWY_INLINE F operator+(F x, F y) { return {x.a + y.a, x.b + y.b}; }
    friend HWY_INLINE F operator-(F x, F y) { return {x.a - y.a, x.b - y.b}; }
    friend HWY_INLINE F operator*(F x, F y) { return {x.a * y.a, x.b * y.b}; }
  };
  struct U {
    typename L::U a, b;
    friend HWY_INLINE U operator+(U x, U y) { return {x.a + y.a, x.b + y.b}; }
    friend HWY_INLINE U operator-(U x, U y) { return {x.a - y.a, x.b - y.b}; }
    friend HWY_INLINE U operator&(U x, U y) { return {x.a & y.a, x.b & y.b}; }
    friend HWY_INLINE U operator^(U x, U y) { return {x.a ^ y.a, x.b ^ y.b}; }
  };
  struct M {
    typename L::M a, b;
  };

  static HWY_INLINE F set(float x) { return {L::set(x), L::set(x)}; }
  static HWY_INLINE F zero() { return {L::zero(), L::zero()}; }
  static HWY_INLINE U set_bits(std::uint32_t x) { return {L::set_bits(x), L::set_bits(x)}; }
  static HWY_INLINE F fma(F x, F y, F z) { return {L::fma(x.a, y.a, z.a), L::fma(x.b, y.b, z.b)}; }
  static HWY_INLINE F div(F x, F y) { return {L::div(x.a, y.a), L::div(x.b, y.b)}; }
  static HWY_INLINE F sqrt(F x) { return {L::sqrt(x.a), L::sqrt(x.b)}; }
  static HWY_INLINE F abs(F x) { return {L::abs(x.a), L::abs(x.b)}; }
  static HWY_INLINE M less(F x, F y) { return {L::less(x.a, y.a), L::less(x.b, y.b)}; }
  static HWY_INLINE M nonzero(U x) { return {L::nonzero(x.a), L::nonzero(x.b)}; }
  static HWY_INLINE F select(M m, F x, F y) { return {L::select(m.a, x.a, y.a), L::select(m.b, x.b, y.b)}; }
  static HWY_INLINE U bits(F x) { return {L::bits(x.a), L::bits(x.b)}; }
  static HWY_INLINE F from_bits(U x) { return {L::from_bits(x.a), L::from_bits(x.b)}; }
  static HWY_INLINE F to_float(U x) { return {L::to_float(x.a), L::to_float(x.b)}; }
  template <int n>
  static HWY_INLINE U shift_left(U x) {
    return {L::template shift_left<n>(x.a), L::template shift_left<n>(x.b)};
  }
  template <int n>
  static HWY_INLINE U shift_right(U x) {
    return {L::template shift_right<n>(x.a), L::template shift_right<n>(x.b)};
  }
  template <int n>
  static HWY_INLINE U shift_right_signed(U x) {
    return {L::template shift_right_signed<n>(x.a), L::template shift_right_signed<n>(x.b)};
  }
};
using PairLane = PairOf<FloatLane>;
using QuadLane = PairOf<PairLane>;

/// Whether there are registers for four chains, as there are where vectors are of 16 elements.
constexpr bool kManyRegisters = kWidth == 16;
static_assert(!kManyRegisters || kParts == 1, "a group of noise is one part");

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

/// Blocks of neighbouring numbers, as many as a vector has words, and what becomes of their words.
struct PhiloxBlocks {
  PhiloxLanes even, odd;

  HWY_INLINE void round(std::uint64_t key0, std::uint64_t key1) {
    even.round(key0, key1);
    odd.round(key0, key1);
  }
  HWY_INLINE PairLane::U radius_words() const { return {interleave(even.c0, odd.c0), interleave(even.c2, odd.c2)}; }
  HWY_INLINE PairLane::U angle_words() const { return {interleave(even.c1, odd.c1), interleave(even.c3, odd.c3)}; }

  /// Words of the blocks of even and of odd number, side by side.
  static HWY_INLINE FloatLane::U interleave(PhiloxLanes::V even, PhiloxLanes::V odd) {
    return hn::OddEven(hn::BitCast(Words(), hn::ShiftLeft<32>(odd)), hn::BitCast(Words(), even));
  }
};

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
    std::int64_t i = 0;
    if constexpr (kManyRegisters) {
      for (; i + kNoiseGroup < count; i += 2 * kNoiseGroup) two_groups(element + i, normals + i);
    }
    for (; i < count; i += kNoiseGroup) {
      for (std::int64_t part = 0; part < kParts; ++part) group(element + i, part, normals + i);
    }
  }

 private:
  HWY_INLINE void group(std::int64_t element, std::int64_t part, float* HWY_RESTRICT normals) const {
    PhiloxBlocks blocks = counters(element, part);
    HWY_UNROLL(10)
    for (int round = 0; round < 10; ++round) blocks.round(key0_[round], key1_[round]);
    PairLane::F cosines, sines;
    FloatMath<PairLane>::box_muller(blocks.radius_words(), blocks.angle_words(), PairLane::set_bits(sign_), cosines,
                                    sines);
    store(cosines, sines, normals + part * kWidth);
  }

  HWY_INLINE void two_groups(std::int64_t element, float* HWY_RESTRICT normals) const {
    PhiloxBlocks a = counters(element, 0);
    PhiloxBlocks b = counters(element + kNoiseGroup, 0);
    HWY_UNROLL(10)
    for (int round = 0; round < 10; ++round) {
      a.round(key0_[round], key1_[round]);
      b.round(key0_[round], key1_[round]);
    }
    QuadLane::F cosines, sines;
    FloatMath<QuadLane>::box_muller({a.radius_words(), b.radius_words()}, {a.angle_words(), b.angle_words()},
                                    QuadLane::set_bits(sign_), cosines, sines);
    store(cosines.a, sines.a, normals);
    store(cosines.b, sines.b, normals + kNoiseGroup);
  }

  /// Of a part of the group that begins with an element.
  HWY_INLINE PhiloxBlocks counters(std::int64_t element, std::int64_t part) const {
    const Wide wide;
    const auto first = static_cast<std::uint64_t>(element / kNoiseGroup * kLanes + part * kWidth);
    const auto blocks = hn::ShiftLeft<1>(hn::Iota(wide, 0)) + hn::Set(wide, first);
    const auto step = hn::Set(wide, step_), shard = hn::Set(wide, shard_), sample = hn::Set(wide, sample_);
    return {{blocks, step, shard, sample}, {blocks + hn::Set(wide, 1), step, shard, sample}};
  }

  static HWY_INLINE void store(PairLane::F cosines, PairLane::F sines, float* HWY_RESTRICT out) {
    hn::Store(cosines.a, Floats(), out);
    hn::Store(sines.a, Floats(), out + kLanes);
    hn::Store(cosines.b, Floats(), out + 2 * kLanes);
    hn::Store(sines.b, Floats(), out + 3 * kLanes);
  }

  std::uint64_t step_, shard_, sample_;
  std::uint32_t sign_;
  std::uint64_t key0_[10], key1_[10];
};
