#include "credence/likelihoods/distribution_functions.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace credence {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr double kTiny = 1e-300;
constexpr double kLargestExactRate = 1e6;

double away_from_zero(double value) {
  return std::abs(value) < kTiny ? kTiny : value;
}

/// b0 + a1 / (b1 + a2 / (b2 + ...)) by the modified method of Lentz (Thompson and Barnett 1986).
class Lentz {
 public:
  explicit Lentz(double b0) : value_(away_from_zero(b0)), c_(value_) {}
  /// Takes the next a and b; false once the value stands.
  bool add(double a, double b) {
    d_ = 1.0 / away_from_zero(b + a * d_);
    c_ = away_from_zero(b + a / c_);
    value_ *= c_ * d_;
    return std::abs(c_ * d_ - 1.0) > kEpsilon;
  }
  double value() const { return value_; }

 private:
  double value_, c_, d_ = 0.0;
};

/// I_x(a, b) with y = 1 - x (DLMF 8.17.22), the side on which the fraction converges fast.
double incomplete_beta(double a, double b, double x, double y) {
  if (x <= 0.0) return 0.0;
  if (y <= 0.0) return 1.0;
  if (x > (a + 1.0) / (a + b + 2.0)) return 1.0 - incomplete_beta(b, a, y, x);
  const double factor =
      std::exp(a * std::log(x) + b * std::log(y) + std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b)) / a;
  Lentz fraction(1.0);
  for (double m = 0.0;; m += 1.0) {
    if (!fraction.add(-(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)), 1.0)) break;
    const double n = m + 1.0;
    if (!fraction.add(n * (b - n) * x / ((a + 2.0 * n - 1.0) * (a + 2.0 * n)), 1.0)) break;
  }
  return factor / fraction.value();
}

/// Q(a, x) = Gamma(a, x) / Gamma(a): series below the mode (DLMF 8.7.1), continued fraction above (DLMF 8.9.2).
double upper_incomplete_gamma(double a, double x) {
  if (x <= 0.0) return 1.0;
  const double factor = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x < a + 1.0) {
    double term = 1.0 / a;
    double sum = term;
    for (double n = 1.0; term > sum * kEpsilon; n += 1.0) {
      term *= x / (a + n);
      sum += term;
    }
    return 1.0 - factor * sum;
  }
  Lentz fraction(x + 1.0 - a);
  for (double n = 1.0; fraction.add(-n * (n - a), x + 2.0 * n + 1.0 - a); n += 1.0) {
  }
  return factor / fraction.value();
}

}  // namespace

double normal_cdf(double z) {
  return 0.5 * std::erfc(-z / std::numbers::sqrt2);
}

double student_t_cdf(double t, double dof) {
  if (std::isnan(t)) return t;
  if (std::isinf(t)) return t > 0.0 ? 1.0 : 0.0;
  const double square = t * t;
  const double tail = 0.5 * incomplete_beta(0.5 * dof, 0.5, dof / (dof + square), square / (dof + square));
  return t > 0.0 ? 1.0 - tail : tail;
}

double poisson_cdf(double count, double rate) {
  if (std::isnan(rate) || std::isinf(rate)) return std::numeric_limits<double>::quiet_NaN();
  if (count < 0.0) return 0.0;
  const double a = std::floor(count) + 1.0;
  if (rate <= kLargestExactRate) return upper_incomplete_gamma(a, rate);
  // Gamma(a) exceeds the rate: its cube root is nearly normal.
  return normal_cdf(3.0 * std::sqrt(a) * (1.0 - 1.0 / (9.0 * a) - std::cbrt(rate / a)));
}

}  // namespace credence
