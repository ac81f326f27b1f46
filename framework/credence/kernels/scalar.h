#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "credence/kernels/noise.h"
#include "credence/kernels/plan.h"

/// The formulas over one number at a time: the reference of the other implementations.
namespace credence::kernels::scalar {

/// One float. Needs -ffp-contract=off: every rounding is written out.
struct FloatLane {
  using F = float;
  using U = std::uint32_t;
  using M = bool;

  static F set(float x) { return x; }
  static F zero() { return 0.0f; }
  static U set_bits(std::uint32_t x) { return x; }
  static F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F div(F a, F b) { return a / b; }
  static F sqrt(F a) { return std::sqrt(a); }
  static F abs(F a) { return std::fabs(a); }
  static M less(F a, F b) { return a < b; }
  static M nonzero(U a) { return a != 0; }
  static F select(M m, F a, F b) { return m ? a : b; }
  static U bits(F a) { return std::bit_cast<U>(a); }
  static F from_bits(U a) { return std::bit_cast<F>(a); }
  static F to_float(U a) { return static_cast<F>(static_cast<std::int32_t>(a)); }  // as a signed number
  template <int n>
  static U shift_left(U a) {
    return a << n;
  }
  template <int n>
  static U shift_right(U a) {
    return a >> n;
  }
  template <int n>
  static U shift_right_signed(U a) {
    return static_cast<U>(static_cast<std::int32_t>(a) >> n);
  }
};

/// double with the standard library's functions: for checks, not for bit equality between machines.
struct DoubleMath {
  using F = double;

  static F set(double x) { return x; }
  static F zero() { return 0.0; }
  static F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F div(F a, F b) { return a / b; }
  static F sqrt(F a) { return std::sqrt(a); }
  static F abs(F a) { return std::fabs(a); }
  static bool less(F a, F b) { return a < b; }
  static F select(bool m, F a, F b) { return m ? a : b; }
  static F log(F x) { return std::log(x); }
  static F exp_nonpositive(F x) { return std::exp(x < -700.0 ? -700.0 : x); }
  static F log1p_unit(F t) { return std::log1p(t); }
  static F inverse_softplus(F s) { return s + std::log(-std::expm1(-s)); }
};

#define CREDENCE_LANE inline
#include "credence/kernels/formulas_inl.h"
#undef CREDENCE_LANE

template <class T>
struct MathOf;
template <>
struct MathOf<float> {
  using Type = FloatMath<FloatLane>;
};
template <>
struct MathOf<double> {
  using Type = DoubleMath;
};

/// The 64 normal numbers of the group that starts at `element`, a multiple of kNoiseGroup.
void normals_of_group(const NoiseStream& stream, std::int64_t element, float (&normals)[kNoiseGroup]);

}  // namespace credence::kernels::scalar
