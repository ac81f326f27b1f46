#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace credence {

/// Below this length, in units of the prior's scale, weights count as this long: the densities here diverge at 0.
inline constexpr double kShortestLength = 1e-4;

/// -log p of each weight, w ~ N(0, (lambda scale)^2), lambda half-Cauchy(1) integrated out: p(w) = exp(x) E1(x) /
/// sqrt(2 pi^3 scale^2), x = w^2 / (2 scale^2) (Carvalho et al. 2010, theorem 1), to 1e-13 of relative error. Shape of
/// `weights`, which must be float64; differentiable once.
torch::Tensor horseshoe_nats(const torch::Tensor& weights, double scale);

enum class ScaleDensity : std::uint8_t { half_cauchy, half_normal };

/// -log p of each group of `group_size` weights, all ~ N(0, (lambda scale)^2) with one lambda of the given density, of
/// unit scale, integrated out. `squared_length`: the sum of squares of each group, any shape, float64. The integral
/// over log lambda is a trapezoidal sum over the range where its (log-concave, analytic) integrand exceeds e^-40 of its
/// peak: exponentially convergent, better than 1e-12 relative.
torch::Tensor group_scale_nats(ScaleDensity density, double scale, std::int64_t group_size,
                               const torch::Tensor& squared_length);

}  // namespace credence
