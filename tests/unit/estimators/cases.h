// Small problems in memory, and an objective of their own formulas: the oracle of gradients.
#pragma once

#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "credence/communication/factory.h"
#include "credence/estimators/activation_noise.h"
#include "credence/estimators/objective.h"
#include "credence/estimators/reparameterized.h"
#include "credence/estimators/score.h"
#include "credence/networks/layers.h"
#include "credence/networks/norm.h"
#include "credence/networks/zoo.h"
#include "credence/optimizers/optimizer.h"

namespace credence::test {

inline torch::Tensor waves(std::vector<std::int64_t> shape, double rate, torch::Dtype dtype = torch::kFloat64) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return torch::sin(torch::arange(count, torch::kFloat64).square() * rate + 0.3).view(shape).to(dtype);
}

/// Batch normalisation between two layers, with its float and integer buffers.
struct Normalized : torch::nn::Module {
  Normalized(std::int64_t inputs, std::int64_t outputs)
      : first(register_module("first", Linear(torch::nn::LinearOptions(inputs, 4)))),
        norm(register_module("norm", torch::nn::BatchNorm1d(4))),
        last(register_module("last", Linear(torch::nn::LinearOptions(4, outputs)))) {}
  torch::Tensor forward(torch::Tensor x) { return last(torch::tanh(norm(first(x)))); }
  Linear first;
  torch::nn::BatchNorm1d norm;
  Linear last;
};

/// A convolution with padding and stride over images [2, 4, 4], tanh, and a linear layer.
struct Convolved : torch::nn::Module {
  explicit Convolved(std::int64_t outputs)
      : conv(register_module("conv", Conv2d(torch::nn::Conv2dOptions(2, 3, 3).padding(1).stride(2)))),
        last(register_module("last", Linear(torch::nn::LinearOptions(12, outputs)))) {}
  torch::Tensor forward(torch::Tensor x) { return last(torch::tanh(conv(x.view({-1, 2, 4, 4}))).flatten(1)); }
  Conv2d conv;
  Linear last;
};

/// A convolution over images [2, 4, 4], a layer of the networks' own that normalises it, tanh, and a linear layer.
struct ConvolvedAndNormalized : torch::nn::Module {
  ConvolvedAndNormalized(std::int64_t outputs, Norm chosen)
      : conv(register_module("conv", Conv2d(torch::nn::Conv2dOptions(2, 3, 3).padding(1).stride(2)))),
        norm(add_norm(*this, "norm", chosen, 3)),
        last(register_module("last", Linear(torch::nn::LinearOptions(12, outputs)))) {}
  torch::Tensor forward(torch::Tensor x) {
    return last(torch::tanh(norm->normalize(conv(x.view({-1, 2, 4, 4})))).flatten(1));
  }
  Conv2d conv;
  NormLayer* norm;
  Linear last;
};

/// `normalized`, `convolved`, `convolved-batch` or `convolved-sync` (32 inputs), or a network of the zoo.
inline torch::nn::AnyModule module_of(const std::string& spec, std::int64_t inputs, std::int64_t outputs) {
  const auto waved = [](const auto& module) {
    const torch::NoGradGuard no_grad;
    double rate = 0.7;
    for (auto& parameter : module->parameters()) parameter.copy_(waves(parameter.sizes().vec(), rate += 0.4));
    return torch::nn::AnyModule(module);
  };
  if (spec == "normalized") return waved(std::make_shared<Normalized>(inputs, outputs));
  if (spec == "convolved") return waved(std::make_shared<Convolved>(outputs));
  if (spec == "convolved-batch") return waved(std::make_shared<ConvolvedAndNormalized>(outputs, Norm::batch));
  if (spec == "convolved-sync") return waved(std::make_shared<ConvolvedAndNormalized>(outputs, Norm::sync));
  ExampleSpec examples;
  examples.input_shape = {inputs};
  return build_module(spec, examples, outputs, 3);
}

struct ProblemOptions {
  std::string network = "mlp:4,tanh";
  Likelihood likelihood = CategoricalLikelihood{3};
  std::int64_t inputs = 3;
  std::vector<std::string> families = {"mean-field"};
  std::vector<std::string> priors = {"normal:0.8"};
  double initial_scale = 0.3;
  torch::Dtype dtype = torch::kFloat64;
  int members = 1;  // of an ensemble, each starting at other values
};

/// The network's values once for each member, somewhat changed.
inline torch::Tensor values_of_members(const Network& network, int members) {
  std::vector<torch::Tensor> parts;
  for (int member = 0; member < members; ++member) parts.push_back(network.values() * (1.0 - 0.2 * member));
  return torch::cat(parts);
}

/// A network with a posterior around values of order one.
struct Problem {
  explicit Problem(ProblemOptions chosen = {})
      : options(std::move(chosen)),
        likelihood(options.likelihood),
        network(module_of(options.network, options.inputs, output_size(likelihood)), options.dtype),
        posterior(plan_posterior(network.layout(), parse_families(options.families), parse_priors(options.priors),
                                 options.members),
                  values_of_members(network, options.members), options.initial_scale, 1) {
    // Scales that differ from weight to weight.
    if (posterior.has_gaussian()) {
      torch::Tensor raw = posterior.raw_scale();
      for (const auto& segment : posterior.segments()) {
        if (segment.gaussian)
          raw.narrow(0, segment.offset, segment.count).add_(waves({segment.count}, 1.1, options.dtype));
      }
    }
  }

  ReparameterizedEstimator::Parts parts(Communicator& communicator) {
    return {.network = network, .posterior = posterior, .likelihood = likelihood, .communicator = communicator};
  }

  ProblemOptions options;
  Likelihood likelihood;
  Network network;
  Posterior posterior;
};

/// `reparam`, `flipout`, `local-reparam` or `score`.
inline std::unique_ptr<Estimator> make_estimator(const std::string& name, const Estimator::Parts& parts,
                                                 const Estimator::Options& options) {
  if (name == "score") return std::make_unique<ScoreEstimator>(parts, options);
  if (name == "reparam") return std::make_unique<ReparameterizedEstimator>(parts, options);
  return std::make_unique<ActivationNoiseEstimator>(
      parts, options, name == "flipout" ? ActivationNoise::Kind::flipout : ActivationNoise::Kind::local);
}

/// The examples of `shards` shards of one step, `size` each; the same whole batch however it is cut.
inline std::vector<Examples> examples_of(const Problem& problem, int shards, std::int64_t size, double rate = 0.9) {
  const std::int64_t batch = shards * size;
  const std::int64_t outputs = output_size(problem.likelihood);
  const torch::Tensor inputs = 1.5 * waves({batch, problem.options.inputs}, rate, problem.options.dtype);
  torch::Tensor targets = waves({batch, outputs}, 2.3 * rate, problem.options.dtype);
  if (std::holds_alternative<CategoricalLikelihood>(problem.likelihood)) targets = targets.argmax(1);
  if (std::holds_alternative<BernoulliLikelihood>(problem.likelihood))
    targets = targets.gt(0).to(problem.options.dtype);
  std::vector<Examples> list;
  for (int shard = 0; shard < shards; ++shard) {
    list.push_back({inputs.narrow(0, shard * size, size), targets.narrow(0, shard * size, size)});
  }
  return list;
}

/// Hands out the examples of shards in order.
inline std::function<Examples()> source_of(const std::vector<Examples>& shards, int first = 0) {
  auto next = std::make_shared<std::size_t>(static_cast<std::size_t>(first));
  return [&shards, next] { return shards.at((*next)++); };
}

/// Mean negative log likelihood of a batch, from the definitions of the densities.
inline double nll_by_definition(const Likelihood& likelihood, const torch::Tensor& outputs,
                                const torch::Tensor& targets) {
  torch::Tensor log_p;
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) {
    log_p = outputs.gather(1, targets.unsqueeze(1)).squeeze(1) - outputs.exp().sum(1).log();
  } else if (std::holds_alternative<BernoulliLikelihood>(likelihood)) {
    const torch::Tensor p = 1.0 / (1.0 + torch::exp(-outputs));
    log_p = (targets * p.log() + (1.0 - targets) * (1.0 - p).log()).sum(1);
  } else {
    const double scale = std::get<GaussianLikelihood>(likelihood).scale;
    log_p =
        (-(targets - outputs).square() / (2.0 * scale * scale) - std::log(scale * std::sqrt(2.0 * std::numbers::pi)))
            .sum(1);
  }
  return -log_p.mean().item<double>();
}

/// The objective of contract 1, nats per example, as a function of (mean, raw scale), with noise named as documented.
class Oracle {
 public:
  Oracle(const Problem& problem, const ReparameterizedEstimator::Options& options, const Objective& objective)
      : problem_(problem),
        options_(options),
        objective_(objective),
        network_(module_of(problem.options.network, problem.options.inputs, output_size(problem.likelihood)),
                 problem.options.dtype),
        weights_(network_.values()) {
    network_.bind(weights_);
  }

  double noise(std::int64_t step, int shard, int sample, std::int64_t element) const {
    kernels::NoiseStream stream{
        .seed = options_.seed, .step = static_cast<std::uint32_t>(step), .sample = static_cast<std::uint32_t>(sample)};
    double sign = 1.0;
    if (options_.noise == NoiseSharing::shard) stream.shard = static_cast<std::uint32_t>(shard);
    if (options_.noise == NoiseSharing::antithetic) {
      stream.shard = static_cast<std::uint32_t>(shard / 2);
      sign = shard % 2 == 0 ? 1.0 : -1.0;
    }
    return sign * static_cast<double>(kernels::standard_normal(stream, element));
  }

  double nll(std::int64_t step, const torch::Tensor& mean, const torch::Tensor& raw,
             const std::vector<Examples>& shards) {
    const torch::NoGradGuard no_grad;
    double sum = 0.0;
    for (int shard = 0; shard < options_.shards; ++shard) {
      for (int sample = 0; sample < options_.samples; ++sample) {
        fill_weights(step, shard, sample, mean, raw);
        const Examples& examples = shards[static_cast<std::size_t>(shard)];
        sum += nll_by_definition(problem_.likelihood, network_.forward(examples.inputs), examples.targets);
      }
    }
    return sum / (options_.shards * options_.samples);
  }

  struct Terms {
    double cross_entropy = 0.0, entropy = 0.0, kl = 0.0;
  };
  Terms terms(const torch::Tensor& mean, const torch::Tensor& raw) const {
    Terms terms;
    const double half_log_two_pi = 0.5 * std::log(2.0 * std::numbers::pi);
    for (const auto& segment : problem_.posterior.segments()) {
      const double p = segment.prior_scale;
      for (std::int64_t i = segment.offset; i < segment.offset + segment.count; ++i) {
        const double m = mean[i].item<double>();
        const double s = segment.gaussian ? std::log1p(std::exp(raw[i].item<double>())) : 0.0;
        const double cross = std::isinf(p) ? 0.0 : half_log_two_pi + std::log(p) + (m * m + s * s) / (2.0 * p * p);
        terms.cross_entropy += cross;
        if (!segment.gaussian) continue;
        terms.entropy += half_log_two_pi + 0.5 + std::log(s);
        terms.kl += cross - (half_log_two_pi + 0.5 + std::log(s));
      }
    }
    return terms;
  }

  /// L, T and the linear warm-up as documented.
  double objective(std::int64_t step, const torch::Tensor& mean, const torch::Tensor& raw,
                   const std::vector<Examples>& shards) {
    const auto [cross_entropy, entropy, kl] = terms(mean, raw);
    double ramp = 1.0;
    if (objective_.warmup_steps > 0) {
      ramp = std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(objective_.warmup_steps));
    }
    const double regularisation = objective_.temperature == 1.0
                                      ? objective_.kl_weight * ramp * (cross_entropy - entropy)
                                      : ramp * (cross_entropy - objective_.temperature * entropy);
    return nll(step, mean, raw, shards) + regularisation / static_cast<double>(objective_.dataset_size);
  }

 private:
  void fill_weights(std::int64_t step, int shard, int sample, const torch::Tensor& mean, const torch::Tensor& raw) {
    double* w = weights_.data_ptr<double>();
    const double* m = mean.data_ptr<double>();
    const double* r = raw.defined() ? raw.data_ptr<double>() : nullptr;
    for (const auto& segment : problem_.posterior.segments()) {
      for (std::int64_t i = segment.offset; i < segment.offset + segment.count; ++i) {
        w[i] = m[i];
        if (segment.gaussian) w[i] += std::log1p(std::exp(r[i])) * noise(step, shard, sample, i);
      }
    }
  }

  const Problem& problem_;
  ReparameterizedEstimator::Options options_;
  Objective objective_;
  Network network_;
  torch::Tensor weights_;
};

/// One step of plain gradient descent with rate 1: the new value is the old one minus the gradient.
inline Optimizer::Result descend(Posterior& posterior, const GradientSum& gradient, const Objective& objective,
                                 std::int64_t step, double multiplier, std::optional<double> clip_norm = {}) {
  Optimizer optimizer(posterior, {.rule = kernels::Rule::sgd,
                                  .learning_rate = 1.0,
                                  .scale_learning_rate = 1.0,
                                  .beta1 = 0.0,
                                  .clip_norm = clip_norm});
  return optimizer.step(gradient, {.number = step,
                                   .gradient_multiplier = multiplier,
                                   .weights = objective.weights(step),
                                   .dataset_size = objective.dataset_size,
                                   .next_draw = std::nullopt});
}

}  // namespace credence::test
