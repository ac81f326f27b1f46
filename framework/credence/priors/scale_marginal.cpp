#include "credence/priors/scale_marginal.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>

#include "credence/base/errors.h"

namespace credence {
namespace {

constexpr double kPi = std::numbers::pi;

torch::Tensor polynomial(std::span<const double> coefficients, const torch::Tensor& x) {
  torch::Tensor value = torch::full_like(x, coefficients.back());
  for (std::size_t i = coefficients.size() - 1; i-- > 0;) value.mul_(x).add_(coefficients[i]);
  return value;
}

/// log(exp(x) E1(x)) and its derivative, x > 0.
struct LogScaledE1 {
  torch::Tensor value;
  torch::Tensor derivative;
};

/// Series about 0: E1(x) = -gamma - log x + x sum_k (-x)^k / ((k + 1) (k + 1)!), for x <= 1.
LogScaledE1 log_scaled_e1_below_one(const torch::Tensor& x) {
  static const std::array<double, 18> coefficients = [] {
    std::array<double, 18> result{};
    double factorial = 1.0;
    for (std::size_t k = 0; k < result.size(); ++k) {
      const auto n = static_cast<double>(k + 1);
      factorial *= -n;
      result[k] = -1.0 / (n * factorial);
    }
    return result;
  }();
  const torch::Tensor e1 = polynomial(coefficients, x).mul_(x).sub_(torch::log(x)).sub_(std::numbers::egamma);
  return {x + torch::log(e1), 1.0 - torch::exp(-x) / (x * e1)};
}

/// x exp(x) E1(x) = 1 - Q(1/x)/x with Q a rational function fitted for x >= 1 to 5e-14: tests/references/priors/
/// exponential_integral.py.
LogScaledE1 log_scaled_e1_above_one(const torch::Tensor& x) {
  static constexpr std::array<double, 9> kNumerator = {
      0.99999999999995500301, 31.690782877966674941, 365.03368361809806904,
      1930.0725970472737021,  4892.2330651969331657, 5693.5376162831595445,
      2661.6862305508889461,  356.68596712426194753, 0.50719582579031965144};
  static constexpr std::array<double, 9> kDenominator = {1.0,
                                                         33.690782877858408384,
                                                         426.41524941578277885,
                                                         2604.7583922017416859,
                                                         8231.8376701337839874,
                                                         13439.706739746329824,
                                                         10712.873009340721267,
                                                         3642.7496568750354731,
                                                         377.65604457666818631};
  const torch::Tensor z = 1.0 / x;
  const torch::Tensor rest = polynomial(kNumerator, z).div_(polynomial(kDenominator, z)).mul_(-z);
  return {torch::log1p(rest) - torch::log(x), rest / (1.0 + rest)};
}

LogScaledE1 log_scaled_e1(const torch::Tensor& x) {
  const LogScaledE1 below = log_scaled_e1_below_one(x.clamp_max(1.0));
  const LogScaledE1 above = log_scaled_e1_above_one(x.clamp_min(1.0));
  const torch::Tensor is_below = x < 1.0;
  return {torch::where(is_below, below.value, above.value), torch::where(is_below, below.derivative, above.derivative)};
}

/// The derivative is formed with the value: nearly all of its work is done there.
class HorseshoeNats : public torch::autograd::Function<HorseshoeNats> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& weights, double scale) {
    const torch::Tensor value = torch::empty_like(weights, torch::MemoryFormat::Contiguous);
    const torch::Tensor slope = torch::empty_like(value);
    // Some sixty passes over the weights: in pieces that stay in a core's cache.
    const std::int64_t piece = weights.is_cpu() ? 16384 : std::max<std::int64_t>(weights.numel(), 1);
    const auto from = weights.reshape(-1).split(piece);
    const auto to_value = value.view(-1).split(piece), to_slope = slope.view(-1).split(piece);
    for (std::size_t i = 0; i < from.size(); ++i) evaluate(from[i], scale, to_value[i], to_slope[i]);
    context->save_for_backward({slope});
    return value;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    return {gradients[0] * context->get_saved_variables()[0], torch::Tensor()};
  }

 private:
  static void evaluate(const torch::Tensor& weights, double scale, torch::Tensor value, torch::Tensor slope) {
    constexpr double kSmallest = 0.5 * kShortestLength * kShortestLength;
    const torch::Tensor x = (weights / scale).square_().mul_(0.5);
    const LogScaledE1 f = log_scaled_e1(x.clamp_min(kSmallest));
    value.copy_(f.value).neg_().add_(0.5 * std::log(2.0 * kPi * kPi * kPi) + std::log(scale));
    slope.copy_(f.derivative).mul_(weights).div_(-scale * scale).masked_fill_(x < kSmallest, 0.0);
  }
};

/// log of the integrand over u = log lambda for a group of n weights with a = sum of squares / (2 scale^2), without
/// constants: log p(lambda) + u - n u - a exp(-2u). Concave in u.
struct Integrand {
  ScaleDensity density;
  double n;
  torch::Tensor a;  // [..., 1]

  torch::Tensor operator()(const torch::Tensor& u) const {
    const torch::Tensor log_density =
        density == ScaleDensity::half_cauchy ? torch::log_sigmoid(-2.0 * u) : torch::exp(2.0 * u).mul_(-0.5);
    return log_density - (n - 1.0) * u - a * torch::exp(-2.0 * u);
  }

  /// Where it is largest: the positive root of p x^2 + q x - 2a, x = lambda^2, in the form without cancellation.
  torch::Tensor peak() const {
    const bool cauchy = density == ScaleDensity::half_cauchy;
    const double p = cauchy ? n + 1.0 : 1.0;
    const torch::Tensor q = cauchy ? n - 1.0 - 2.0 * a : torch::full_like(a, n - 1.0);
    const torch::Tensor root = torch::sqrt(q.square() + 8.0 * p * a);
    return 0.5 * torch::log(torch::where(q > 0.0, 4.0 * a / (q + root), (root - q) / (2.0 * p)));
  }

  /// A distance from the peak, to the side of `sign`, at which it has fallen by 40 to 45 or so.
  torch::Tensor reach(const torch::Tensor& peak, double sign) const {
    torch::Tensor low = torch::full_like(peak, std::log(1e-5));
    torch::Tensor high = torch::full_like(peak, std::log(1e3));
    const torch::Tensor floor = (*this)(peak)-40.0;
    for (int i = 0; i < 9; ++i) {
      const torch::Tensor middle = 0.5 * (low + high);
      const torch::Tensor inside = (*this)(peak + sign * torch::exp(middle)) > floor;
      low = torch::where(inside, middle, low);
      high = torch::where(inside, high, middle);
    }
    return torch::exp(high);
  }
};

}  // namespace

torch::Tensor horseshoe_nats(const torch::Tensor& weights, double scale) {
  ensure(weights.scalar_type() == torch::kDouble, "the horseshoe is evaluated in float64");
  return HorseshoeNats::apply(weights, scale);
}

torch::Tensor group_scale_nats(ScaleDensity density, double scale, std::int64_t group_size,
                               const torch::Tensor& squared_length) {
  constexpr int kNodes = 193;
  const auto n = static_cast<double>(group_size);
  const double shortest = kShortestLength * scale;
  const torch::Tensor a = squared_length.clamp_min(shortest * shortest).unsqueeze(-1) / (2.0 * scale * scale);
  torch::Tensor nodes, step;
  {
    const torch::NoGradGuard no_gradient;
    const Integrand integrand{density, n, a.detach()};
    const torch::Tensor peak = integrand.peak();
    const torch::Tensor left = integrand.reach(peak, -1.0), right = integrand.reach(peak, 1.0);
    step = (left + right) / (kNodes - 1.0);
    nodes = peak - left + step * torch::arange(kNodes, a.options());
  }
  const double log_normalizer = density == ScaleDensity::half_cauchy ? std::log(2.0 / kPi) : 0.5 * std::log(2.0 / kPi);
  return n * (0.5 * std::log(2.0 * kPi) + std::log(scale)) - log_normalizer -
         torch::logsumexp(Integrand{density, n, a}(nodes), -1) - torch::log(step).squeeze(-1);
}

}  // namespace credence
