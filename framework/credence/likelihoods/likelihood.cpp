#include "credence/likelihoods/likelihood.h"

#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

torch::Tensor real_targets(const Batch& batch, std::int64_t columns, torch::Dtype dtype) {
  if (!batch.labels.empty()) {
    return torch::tensor(batch.labels, torch::kInt64).to(dtype).unsqueeze(1);
  }
  const auto size = static_cast<std::int64_t>(batch.targets.size());
  ensure(size == batch.size * columns, "batch and likelihood differ in the number of targets");
  return torch::tensor(batch.targets, torch::kFloat32).to(dtype).view({batch.size, columns});
}

double log_normalizer(const GaussianLikelihood& gaussian) {
  return 0.5 * std::log(2.0 * std::numbers::pi) + std::log(gaussian.scale);
}

}  // namespace

Likelihood parse_likelihood(const std::string& spec, const ExampleSpec& examples) {
  const Spec parsed = parse_spec(spec);
  if (parsed.name == "categorical") {
    require(parsed.arguments.empty(), "categorical takes no arguments, not '{}'", parsed.arguments);
    require(examples.classes >= 2,
            "the likelihood categorical needs class labels, and these data have real targets; "
            "use gaussian:STDDEV");
    return CategoricalLikelihood{examples.classes};
  }
  if (parsed.name == "bernoulli") {
    require(parsed.arguments.empty(), "bernoulli takes no arguments, not '{}'", parsed.arguments);
    require(examples.classes == 0 || examples.classes == 2,
            "the likelihood bernoulli needs two classes, and these data have {}; use categorical", examples.classes);
    return BernoulliLikelihood{examples.classes == 2 ? 1 : examples.target_size};
  }
  if (parsed.name == "gaussian") {
    require(examples.classes == 0,
            "the likelihood gaussian needs real targets, and these data have class labels; use "
            "categorical");
    const double scale =
        parsed.arguments.empty() ? 1.0 : parse_number(parsed.arguments, "the standard deviation in gaussian:STDDEV");
    require(scale > 0.0, "the standard deviation in gaussian:STDDEV must be positive, not {}", parsed.arguments);
    return GaussianLikelihood{scale, examples.target_size};
  }
  const std::vector<std::string> known = {"categorical", "bernoulli", "gaussian"};
  refuse_unknown("likelihood", parsed.name, known);
}

std::int64_t output_size(const Likelihood& likelihood) {
  return std::visit(Overloaded{[](const CategoricalLikelihood& l) { return l.classes; },
                               [](const BernoulliLikelihood& l) { return l.columns; },
                               [](const GaussianLikelihood& l) { return l.columns; }},
                    likelihood);
}

torch::Tensor target_tensor(const Likelihood& likelihood, const Batch& batch, torch::Dtype dtype) {
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) return torch::tensor(batch.labels, torch::kInt64);
  const torch::Tensor targets = real_targets(batch, output_size(likelihood), dtype);
  if (std::holds_alternative<BernoulliLikelihood>(likelihood) && batch.labels.empty()) {
    for (const float value : batch.targets) {
      if (value != 0.0F && value != 1.0F) {
        throw DataError(fmt::format("the likelihood bernoulli needs targets 0 or 1, and one is {}", value));
      }
    }
  }
  return targets;
}

Examples to_tensors(const Batch& batch, const ExampleSpec& spec, const Likelihood& likelihood, torch::Dtype dtype,
                    torch::Device device) {
  std::vector<std::int64_t> shape = {batch.size};
  shape.insert(shape.end(), spec.input_shape.begin(), spec.input_shape.end());
  // from_blob wants a mutable pointer; nothing writes through it. The copy is aligned as LibTorch aligns: the bits of a
  // matrix product depend on alignment, and must not depend on where the batch happens to lie.
  const torch::Tensor view = torch::from_blob(const_cast<float*>(batch.inputs.data()), shape, torch::kFloat32);
  const torch::Tensor inputs = view.to(device, dtype, /*non_blocking=*/false, /*copy=*/true);
  return {inputs, target_tensor(likelihood, batch, dtype).to(device)};
}

torch::Tensor mean_negative_log_likelihood(const Likelihood& likelihood, const torch::Tensor& outputs,
                                           const torch::Tensor& targets) {
  return std::visit(
      Overloaded{[&](const CategoricalLikelihood&) { return torch::cross_entropy_loss(outputs, targets); },
                 [&](const BernoulliLikelihood& l) {
                   return torch::binary_cross_entropy_with_logits(outputs, targets) * static_cast<double>(l.columns);
                 },
                 [&](const GaussianLikelihood& l) {
                   const double columns = static_cast<double>(l.columns);
                   return torch::mse_loss(outputs, targets) * (columns / (2.0 * l.scale * l.scale)) +
                          columns * log_normalizer(l);
                 }},
      likelihood);
}

torch::Tensor log_likelihoods(const Likelihood& likelihood, const torch::Tensor& outputs,
                              const torch::Tensor& targets) {
  const torch::Tensor exact = outputs.to(torch::kFloat64);
  return std::visit(Overloaded{[&](const CategoricalLikelihood&) {
                                 return torch::log_softmax(exact, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
                               },
                               [&](const BernoulliLikelihood&) {
                                 const torch::Tensor signs = targets.to(torch::kFloat64) * 2.0 - 1.0;
                                 return torch::log_sigmoid(exact * signs).sum(1);
                               },
                               [&](const GaussianLikelihood& l) {
                                 const torch::Tensor errors = (exact - targets.to(torch::kFloat64)) / l.scale;
                                 return (errors * errors * -0.5 - log_normalizer(l)).sum(1);
                               }},
                    likelihood);
}

torch::Tensor class_probabilities(const Likelihood& likelihood, const torch::Tensor& outputs) {
  ensure(is_classification(likelihood), "class probabilities of a likelihood without classes");
  const torch::Tensor exact = outputs.to(torch::kFloat64);
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) return torch::softmax(exact, 1);
  return torch::cat({torch::sigmoid(-exact), torch::sigmoid(exact)}, 1);
}

std::int64_t count_correct(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets) {
  if (!is_classification(likelihood)) return 0;
  const torch::NoGradGuard no_grad;
  const torch::Tensor hits = std::holds_alternative<CategoricalLikelihood>(likelihood)
                                 ? outputs.argmax(1).eq(targets)
                                 : outputs.gt(0).eq(targets.gt(0.5));
  return hits.sum().item<std::int64_t>();
}

bool is_classification(const Likelihood& likelihood) {
  if (const auto* bernoulli = std::get_if<BernoulliLikelihood>(&likelihood)) return bernoulli->columns == 1;
  return std::holds_alternative<CategoricalLikelihood>(likelihood);
}

}  // namespace credence
