// Accuracy of the elementary functions against the standard library in double.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "credence/base/errors.h"
#include "credence/kernels/kernel_set.h"
#include "credence/kernels/scalar.h"

namespace credence::kernels {
namespace {

using Math = scalar::FloatMath<scalar::FloatLane>;
using Formula = scalar::Formulas<Math, float>;

/// Error in units of the last place of the exact value's float.
double ulps(float got, double exact) {
  return std::abs(got - exact) / std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
}

double softplus(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// The polynomials add at most 2^-27.5 * 2^24 = 0.09 ulp; the rest is two or three roundings of the last operations.
constexpr double kElementary = 2.0;
constexpr double kComposed = 5.0;
constexpr int kPoints = 1'000'000;

TEST(Functions, Log) {
  for (int i = 0; i < kPoints; ++i) {
    const float wide = std::exp2(-126.0f + 253.0f * static_cast<float>(i) / kPoints);
    ASSERT_LT(ulps(Math::log(wide), std::log(static_cast<double>(wide))), kElementary) << wide;
    const float near = 0.5f + 1.5e-6f * static_cast<float>(i);
    if (near == 1.0f) continue;
    ASSERT_LT(ulps(Math::log(near), std::log(static_cast<double>(near))), kElementary) << near;
  }
  EXPECT_EQ(Math::log(1.0f), 0.0f);
}

TEST(Functions, ExpOfNonpositive) {
  for (int i = 0; i < kPoints; ++i) {
    const float x = -87.0f * static_cast<float>(i) / kPoints;
    ASSERT_LT(ulps(Math::exp_nonpositive(x), std::exp(static_cast<double>(x))), kElementary) << x;
  }
  EXPECT_EQ(Math::exp_nonpositive(0.0f), 1.0f);
  EXPECT_EQ(Math::exp_nonpositive(-1e30f), Math::exp_nonpositive(-87.0f));
  EXPECT_TRUE(std::isnormal(Math::exp_nonpositive(-INFINITY)));
  EXPECT_TRUE(std::isnan(Math::exp_nonpositive(NAN)));
}

TEST(Functions, Log1pOfUnitInterval) {
  for (int i = 1; i <= kPoints; ++i) {
    const float t = static_cast<float>(i) / kPoints;
    ASSERT_LT(ulps(Math::log1p_unit(t), std::log1p(static_cast<double>(t))), kElementary) << t;
    const float small = t * 1e-20f;
    ASSERT_LT(ulps(Math::log1p_unit(small), std::log1p(static_cast<double>(small))), kElementary) << small;
  }
}

TEST(Functions, SineAndCosine) {
  for (std::uint32_t i = 0; i < kPoints; ++i) {
    const std::uint32_t word = i * 2654435761u;
    float sine, cosine;
    Math::sincos_turn(word, sine, cosine);
    const double angle = static_cast<double>(static_cast<std::int32_t>(word)) * (2.0 * M_PI / 4294967296.0);
    // The oracle itself is 1e-16 off, of no consequence except at zeros.
    ASSERT_NEAR(sine, std::sin(angle),
                kElementary * std::ldexp(1.0, std::ilogb(std::sin(angle) + 1e-300) - 23) + 1e-15);
    ASSERT_NEAR(cosine, std::cos(angle), kElementary * std::ldexp(1.0, std::ilogb(std::cos(angle)) - 23) + 1e-15);
  }
  constexpr float d = 0.70710678f;
  const float expected[8][2] = {{0, 1}, {d, d}, {1, 0}, {d, -d}, {0, -1}, {-d, -d}, {-1, 0}, {-d, d}};
  for (std::uint32_t eighth = 0; eighth < 8; ++eighth) {
    float sine, cosine;
    Math::sincos_turn(eighth << 29, sine, cosine);
    EXPECT_NEAR(sine, expected[eighth][0], 1.2e-7) << eighth;
    EXPECT_NEAR(cosine, expected[eighth][1], 1.2e-7) << eighth;
  }
}

TEST(Functions, BoxMullerAtTheEnds) {
  float first, second;
  for (const std::uint32_t word : {0u, 1u, 2u, 1000u}) {  // u = (word / 2 + 1/2) / 2^31 in the far tail
    Math::box_muller(word, 0, 0, first, second);
    EXPECT_NEAR(first, std::sqrt(-2.0 * std::log(std::ldexp(word / 2 + 0.5, -31))), 2e-6) << word;
    EXPECT_EQ(second, 0.0f);
  }
  Math::box_muller(0xffffffffu, 0, 0, first, second);
  EXPECT_EQ(first, 0.0f);
  Math::box_muller(0, 0, 0x80000000u, first, second);
  EXPECT_NEAR(first, -std::sqrt(64.0 * std::log(2.0)), 2e-6);
}

TEST(Functions, SoftplusAndItsDerivative) {
  for (int i = 0; i < kPoints; ++i) {
    const float raw = -80.0f + 200.0f * static_cast<float>(i) / kPoints;
    const auto scale = Formula::scale_and_slopes(raw);
    ASSERT_LT(ulps(scale.value, softplus(raw)), kComposed) << raw;
    ASSERT_LT(ulps(scale.slope, 1.0 / (1.0 + std::exp(-static_cast<double>(raw)))), kComposed) << raw;
    ASSERT_LT(ulps(scale.log_slope, 1.0 / (1.0 + std::exp(-static_cast<double>(raw))) / softplus(raw)), kComposed)
        << raw;
    ASSERT_EQ(scale.value, Formula::scale(raw));
  }
}

TEST(Functions, InverseOfSoftplus) {
  for (int i = 0; i < kPoints; ++i) {
    const float scale = std::exp(-80.0f + 90.0f * static_cast<float>(i) / kPoints);
    const double exact = inverse_softplus(scale);
    // Near scale = log 2, where the raw scale is 0, an error of the last operation counts absolutely; Taylor adds 1e-7
    // of the scale.
    const double unit = std::ldexp(1.0, std::max(std::ilogb(exact), -1) - 23);
    ASSERT_LT(std::abs(Math::inverse_softplus(scale) - exact), 3.0 * unit) << scale;
  }
}

TEST(Functions, SoftplusAtTheEnds) {
  const auto huge = Formula::scale_and_slopes(1e30f), tiny = Formula::scale_and_slopes(-1e30f);
  EXPECT_EQ(huge.value, 1e30f);
  EXPECT_NEAR(huge.slope, 1.0f, 3e-7f);
  EXPECT_TRUE(std::isnormal(tiny.value));  // its logarithm stays finite
  EXPECT_NEAR(tiny.slope / tiny.value, 1.0f, 3e-7f);
  EXPECT_NEAR(tiny.log_slope, 1.0f, 3e-7f);
  EXPECT_TRUE(std::isnan(Formula::scale(NAN)));
}

TEST(Functions, InverseSoftplus) {
  for (const double scale : {1e-30, 1e-8, 0.0067, 0.5, 1.0, 30.0, 1e4}) {
    const double raw = inverse_softplus(scale);
    // d log(scale) / d raw <= 1: an error of raw in its last place is at most that of log(scale).
    EXPECT_NEAR(softplus(raw) / scale, 1.0, 4e-16 * std::max(1.0, std::abs(raw))) << scale;
  }
  EXPECT_THROW(inverse_softplus(0.0), UserError);
  EXPECT_THROW(inverse_softplus(-1.0), UserError);
  EXPECT_THROW(inverse_softplus(NAN), UserError);
}

}  // namespace
}  // namespace credence::kernels
