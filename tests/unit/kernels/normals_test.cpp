// Statistics of the normal numbers. Seeds are fixed, so each test passes or fails for good; limits are 4.5 standard
// errors (one right generator in 150,000 would fail one such check).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "credence/kernels/kernel_set.h"

namespace credence::kernels {
namespace {

constexpr double kLimit = 4.5;

/// The sum of eps * 1: the kernel's own noise, fast.
std::vector<float> normals(const NoiseStream& stream, std::int64_t count) {
  const auto size = static_cast<std::size_t>(count);
  std::vector<float> ones(size, 1.0f), sum(size), eps(size);
  simd_kernels<float>(2)->accumulate({.count = count}, ones.data(), stream, false, sum.data(), eps.data());
  return eps;
}

TEST(Normals, KernelsAndSingleNumbersAgree) {
  const NoiseStream stream{.seed = 9, .step = 1, .shard = 2, .sample = 3};
  const std::vector<float> eps = normals(stream, 1000);
  for (std::int64_t i = 0; i < 1000; ++i) EXPECT_EQ(eps[static_cast<std::size_t>(i)], standard_normal(stream, i));
}

TEST(Normals, AreBoxMullerOfTheirWords) {
  const NoiseStream stream{.seed = 10};
  for (std::int64_t i = 0; i < 4096; ++i) {
    const std::int64_t word = i % 64 / 16;
    const std::int64_t first = i - 16 * (word % 2);
    const double u = (random_word(stream, first) / 2 + 0.5) / 2147483648.0;
    const double angle = 2.0 * M_PI * random_word(stream, first + 16) / 4294967296.0;
    const double radius = std::sqrt(-2.0 * std::log(u));
    // u is rounded to float, relative error 2^-24: that moves the radius by 2^-24 / radius.
    const double tolerance = 4e-7 * radius + 1.2e-7 / std::max(radius, 3e-4);
    EXPECT_NEAR(standard_normal(stream, i), radius * (word % 2 == 0 ? std::cos(angle) : std::sin(angle)), tolerance);
  }
}

TEST(Normals, Moments) {
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
    const std::vector<float> eps = normals({.seed = seed}, 1 << 22);
    const auto n = static_cast<double>(eps.size());
    double sums[5] = {};
    for (const double x : eps) {
      for (int k = 1; k <= 4; ++k) sums[k] += std::pow(x, k);
    }
    // Variances of x^k: 1, 2, 15, 96.
    EXPECT_LT(std::abs(sums[1] / n) / std::sqrt(1 / n), kLimit) << "mean, seed " << seed;
    EXPECT_LT(std::abs(sums[2] / n - 1) / std::sqrt(2 / n), kLimit) << "variance, seed " << seed;
    EXPECT_LT(std::abs(sums[3] / n) / std::sqrt(15 / n), kLimit) << "skewness, seed " << seed;
    EXPECT_LT(std::abs(sums[4] / n - 3) / std::sqrt(96 / n), kLimit) << "kurtosis, seed " << seed;
  }
}

TEST(Normals, TailsToFiveSigma) {
  // 2^26 numbers: 38 beyond five sigma are expected, so none at all is 6.2 standard errors away.
  std::vector<double> beyond(6), above(6);
  constexpr std::int64_t kDraw = 1 << 24;
  for (std::uint32_t step = 0; step < 4; ++step) {
    for (const float x : normals({.seed = 11, .step = step}, kDraw)) {
      for (std::size_t k = 1; k <= 5 && std::abs(x) > static_cast<float>(k); ++k) {
        beyond[k] += 1;
        above[k] += x > 0;
      }
    }
  }
  for (std::size_t k = 1; k <= 5; ++k) {
    const double n = 4.0 * kDraw, p = std::erfc(static_cast<double>(k) / std::sqrt(2.0));
    EXPECT_LT(std::abs(beyond[k] - n * p) / std::sqrt(n * p * (1 - p)), kLimit) << k << " sigma: " << beyond[k];
    EXPECT_LT(std::abs(above[k] - beyond[k] / 2) / std::sqrt(beyond[k] / 4), kLimit) << "signs beyond " << k;
  }
}

TEST(Normals, StayWithinTheirBound) {
  for (const float x : normals({.seed = 12}, 1 << 22)) ASSERT_LT(std::abs(x), 6.7f);
}

TEST(Normals, KolmogorovSmirnov) {
  std::vector<float> eps = normals({.seed = 13, .shard = 1}, 1 << 20);
  std::sort(eps.begin(), eps.end());
  const auto n = static_cast<double>(eps.size());
  double distance = 0;
  for (std::size_t i = 0; i < eps.size(); ++i) {
    const double p = 0.5 * std::erfc(-static_cast<double>(eps[i]) / std::sqrt(2.0));
    distance =
        std::max({distance, std::abs(p - static_cast<double>(i) / n), std::abs(p - (static_cast<double>(i) + 1) / n)});
  }
  EXPECT_LT(distance * std::sqrt(n), 2.6);  // probability 2 exp(-2 * 2.6^2) = 3e-6
}

/// z-values of the correlations of x with y and of x^2 with y^2, for independent standard normals.
void expect_independent(const std::vector<float>& x, const std::vector<float>& y, const std::string& what) {
  double products = 0, squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = x[i], b = y[i];
    products += a * b;
    squares += (a * a - 1) * (b * b - 1);
  }
  const double root = std::sqrt(static_cast<double>(x.size()));
  EXPECT_LT(std::abs(products) / root, kLimit) << what;
  EXPECT_LT(std::abs(squares) / (2 * root), kLimit) << what << ", squares";
}

TEST(Normals, StreamsAreIndependent) {
  constexpr std::int64_t kCount = 1 << 20;
  const NoiseStream base{.seed = 14, .purpose = Purpose::weights, .step = 8, .shard = 4, .sample = 2};
  const std::vector<float> x = normals(base, kCount);
  const auto compare = [&](const std::string& what, auto change) {
    NoiseStream other = base;
    change(other);
    expect_independent(x, normals(other, kCount), what);
  };
  compare("seed", [](NoiseStream& s) { s.seed += 1; });
  compare("high seed", [](NoiseStream& s) { s.seed += std::uint64_t{1} << 32; });
  compare("purpose", [](NoiseStream& s) { s.purpose = Purpose::prediction; });
  compare("step", [](NoiseStream& s) { s.step += 1; });
  compare("shard", [](NoiseStream& s) { s.shard += 1; });
  compare("sample", [](NoiseStream& s) { s.sample += 1; });
  compare("step and shard exchanged", [](NoiseStream& s) { std::swap(s.step, s.shard); });
}

TEST(Normals, NeighboursAreIndependent) {
  const std::vector<float> x = normals({.seed = 15}, 1 << 20);
  for (const std::size_t lag : {1u, 2u, 16u, 32u, 48u, 64u}) {
    expect_independent({x.begin(), x.end() - static_cast<std::ptrdiff_t>(lag)},
                       {x.begin() + static_cast<std::ptrdiff_t>(lag), x.end()}, "lag " + std::to_string(lag));
  }
  std::vector<float> cosines, sines;  // the two numbers of one Box-Muller pair
  for (std::size_t i = 0; i < x.size(); ++i) (i / 16 % 2 == 0 ? cosines : sines).push_back(x[i]);
  expect_independent(cosines, sines, "partners");
}

TEST(Normals, AntitheticPartnerIsTheNegative) {
  const std::vector<float> x = normals({.seed = 16}, 5000), y = normals({.seed = 16, .negate = true}, 5000);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], -x[i]);
}

}  // namespace
}  // namespace credence::kernels
