#include <cmath>

#include "credence/likelihoods/likelihood.h"

namespace credence {
namespace {

/// Uniform in (0, 1), of 32 bits.
double uniform(const kernels::NoiseStream& stream, std::int64_t element) {
  return (static_cast<double>(kernels::random_word(stream, element)) + 0.5) * 0x1p-32;
}

/// Beta(alpha, alpha) for alpha in (0, 1] (Johnk 1964): accepts with a probability of at least a half.
double beta(double alpha, const kernels::NoiseStream& stream) {
  for (std::int64_t trial = 0;; trial += 2) {
    const double u = uniform(stream, trial);
    const double v = uniform(stream, trial + 1);
    const double x = std::pow(u, 1.0 / alpha);
    const double y = std::pow(v, 1.0 / alpha);
    if (x + y > 0.0 && x + y <= 1.0) return x / (x + y);
    if (x + y == 0.0) return u > v ? 1.0 : 0.0;  // both underflow: by the logarithms, one is nothing beside the other
  }
}

}  // namespace

void mix_examples(const Likelihood& likelihood, const kernels::NoiseStream& stream, Examples& examples) {
  const auto* categorical = std::get_if<CategoricalLikelihood>(&likelihood);
  if (categorical == nullptr || categorical->mixup == 0.0) return;
  const double share = beta(categorical->mixup, stream);
  const auto mixed = [&](const torch::Tensor& values) { return values * share + values.flip(0) * (1.0 - share); };
  examples.targets = mixed(torch::one_hot(examples.targets, categorical->classes).to(examples.inputs.scalar_type()));
  examples.inputs = mixed(examples.inputs);
}

std::string describe_alteration(const Likelihood& likelihood) {
  const auto* categorical = std::get_if<CategoricalLikelihood>(&likelihood);
  if (categorical == nullptr) return "";
  const bool smooths = categorical->smoothing > 0.0;
  if (categorical->mixup > 0.0) return smooths ? "label smoothing and mixup" : "mixup";
  return smooths ? "label smoothing" : "";
}

}  // namespace credence
