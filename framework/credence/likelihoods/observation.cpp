#include "credence/likelihoods/observation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/overloaded.h"
#include "credence/likelihoods/distribution_functions.h"
#include "credence/likelihoods/latent.h"

namespace credence {
namespace {

constexpr double kTolerance = 1e-10;  // of a quantile, in scales
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double uniform_word(kernels::NoiseStream stream, std::int64_t element, std::uint32_t shard) {
  stream.shard = shard;
  return (static_cast<double>(kernels::random_word(stream, element)) + 0.5) * 0x1p-32;
}

/// The point where `below` turns false, between `low` and `high`, to within `tolerance` or the last bit.
template <class Below>
double bisect(double low, double high, double tolerance, const Below& below) {
  while (high - low > tolerance) {
    const double middle = low + 0.5 * (high - low);
    if (middle <= low || middle >= high) break;
    (below(middle) ? low : high) = middle;
  }
  return low + 0.5 * (high - low);
}

}  // namespace

ObservationModel::ObservationModel(const Likelihood& likelihood) : likelihood_(likelihood) {
  ensure(is_regression(likelihood), "observations of a likelihood that predicts no numbers");
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) {
    depth_ = *depth;
    likelihood_ = *depth_->inner;
  }
  counts_ = std::holds_alternative<PoissonLikelihood>(likelihood_);
  if (const auto* t = std::get_if<StudentTLikelihood>(&likelihood_)) dof_ = t->dof;
}

ObservationModel::Tensors ObservationModel::of(const torch::Tensor& outputs) const {
  const torch::Tensor exact = (depth_ ? outputs_at_mode(*depth_, outputs) : outputs).to(torch::kFloat64);
  const std::int64_t columns = target_columns(likelihood_);
  const torch::Tensor first = exact.narrow(1, 0, columns);
  const auto second = [&] { return exact.narrow(1, columns, columns); };
  return std::visit(Overloaded{[&](const LearnedGaussianLikelihood&) {
                                 return Tensors{first, torch::softplus(second())};
                               },
                               [&](const HeteroscedasticLikelihood&) {
                                 return Tensors{first, torch::exp(second() * 0.5)};
                               },
                               [&](const PoissonLikelihood&) {
                                 return Tensors{first.exp(), torch::exp(first * 0.5)};
                               },
                               [&](const GaussianLikelihood& l) {
                                 return Tensors{first, torch::full_like(first, l.scale)};
                               },
                               [&](const StudentTLikelihood& l) {
                                 return Tensors{first, torch::full_like(first, l.scale)};
                               },
                               [](const auto&) { return Tensors{}; }},
                    likelihood_);
}

double ObservationModel::variance(const Observation& observation) const {
  const double square = observation.scale * observation.scale;
  if (dof_ == 0.0) return square;
  return dof_ > 2.0 ? square * dof_ / (dof_ - 2.0) : kInfinity;
}

double ObservationModel::cdf(double target, const Observation& observation) const {
  if (counts_) return poisson_cdf(target, observation.location);
  const double z = (target - observation.location) / observation.scale;
  return dof_ == 0.0 ? normal_cdf(z) : student_t_cdf(z, dof_);
}

double ObservationModel::mixture_cdf(double target, std::span<const Observation> mixture) const {
  double sum = 0.0;
  for (const Observation& observation : mixture) sum += cdf(target, observation);
  return sum / static_cast<double>(mixture.size());
}

ObservationModel::Level ObservationModel::level(double p) const {
  ensure(p > 0.0 && p < 1.0, "a quantile has a probability between 0 and 1");
  if (counts_) return {p, 0.0};
  const auto below = [&](double z) { return (dof_ == 0.0 ? normal_cdf(z) : student_t_cdf(z, dof_)) < p; };
  double bound = 1.0;
  while (below(bound) || !below(-bound)) bound *= 2.0;
  return {p, bisect(-bound, bound, 0.0, below)};
}

double ObservationModel::quantile(const Level& level, std::span<const Observation> mixture) const {
  ensure(!mixture.empty(), "a quantile of nothing");
  for (const Observation& observation : mixture) {
    if (!std::isfinite(observation.location) || !std::isfinite(observation.scale)) return kNaN;
  }
  if (counts_) return count_quantile(level.p, mixture);
  // The mixture's quantile lies between the least and the largest of its parts'.
  double low = kInfinity;
  double high = -kInfinity;
  double scale = 0.0;
  for (const Observation& observation : mixture) {
    const double part = observation.location + level.standard * observation.scale;
    low = std::min(low, part);
    high = std::max(high, part);
    scale = std::max(scale, observation.scale);
  }
  return bisect(low, high, kTolerance * scale, [&](double target) { return mixture_cdf(target, mixture) < level.p; });
}

double ObservationModel::count_quantile(double p, std::span<const Observation> mixture) const {
  const auto reaches = [&](double count) { return mixture_cdf(count, mixture) >= p; };
  double largest = 0.0;
  for (const Observation& observation : mixture) largest = std::max(largest, observation.location);
  double high = std::ceil(largest);
  for (double step = std::ceil(std::sqrt(largest)) + 1.0; !reaches(high); step *= 2.0) high += step;
  double low = -1.0;  // which never reaches
  for (double step = std::ceil(std::sqrt(largest)) + 1.0; high - step > low; step *= 2.0) {
    if (!reaches(high - step)) low = high - step;
  }
  while (high - low > 1.0) {
    const double middle = std::floor(low + 0.5 * (high - low));
    (reaches(middle) ? high : low) = middle;
  }
  return high;
}

double ObservationModel::sample(const Observation& observation, kernels::NoiseStream stream,
                                std::int64_t element) const {
  if (counts_) return quantile({uniform(stream, element), 0.0}, {&observation, 1});
  if (dof_ == 0.0) {
    return observation.location + observation.scale * static_cast<double>(kernels::standard_normal(stream, element));
  }
  // Bailey 1994, "Polar generation of random variates with the t-distribution".
  const double radius = std::sqrt(dof_ * std::expm1(-2.0 / dof_ * std::log(uniform_word(stream, element, 0))));
  const double angle = 2.0 * std::numbers::pi * uniform_word(stream, element, 1);
  return observation.location + observation.scale * radius * std::cos(angle);
}

double uniform(kernels::NoiseStream stream, std::int64_t element) {
  stream.shard = 0;
  const std::uint64_t high = kernels::random_word(stream, element);
  stream.shard = 1;
  const std::uint64_t low = kernels::random_word(stream, element);
  return (static_cast<double>(high << 20 | low >> 12) + 0.5) * 0x1p-52;
}

}  // namespace credence
