#include "credence/likelihoods/latent.h"

#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/adaptive_depth.h"
#include "credence/networks/vae.h"

namespace credence {
namespace {

constexpr double kLargestPixel = 255.0;
constexpr std::int64_t kMostLevels = 256;

using Values = VaeLikelihood::Values;

/// Pixels 0 to 1 of normalised inputs [B, D].
torch::Tensor pixels_of(const VaeLikelihood& l, const torch::Tensor& inputs) {
  const auto channels = static_cast<std::int64_t>(l.normalization.mean.size());
  if (channels == 0) return inputs;
  const auto per_channel = [&](const std::vector<double>& values) {
    return torch::tensor(values, torch::kFloat64).view({1, channels, 1});
  };
  const torch::Tensor by_channel = inputs.view({inputs.size(0), channels, -1});
  return (by_channel * per_channel(l.normalization.deviation) + per_channel(l.normalization.mean)).view(inputs.sizes());
}

/// log p(x | z), [B].
torch::Tensor reconstruction(const VaeLikelihood& l, const torch::Tensor& decoded, const torch::Tensor& targets) {
  if (l.values == Values::levels) {
    return -torch::cross_entropy_loss(decoded.reshape({-1, l.levels}), targets.reshape({-1}), {}, at::Reduction::None)
                .view({decoded.size(0), l.columns})
                .sum(1);
  }
  if (l.values == Values::gaussian) {
    const torch::Tensor error = (decoded - targets) / l.scale;
    const double log_normalizer = 0.5 * std::log(2.0 * std::numbers::pi) + std::log(l.scale);
    return (error * error).sum(1) * -0.5 - static_cast<double>(l.columns) * log_normalizer;
  }
  return -torch::binary_cross_entropy_with_logits(decoded, targets, {}, {}, at::Reduction::None).sum(1);
}

}  // namespace

VaeLikelihood parse_vae_likelihood(const std::string& spec, const ExampleSpec& examples) {
  const Spec parsed = parse_spec(spec);
  VaeLikelihood likelihood{.columns = examples.input_elements(), .normalization = {}};
  const bool images = examples.input_shape.size() == 3;
  if (parsed.name == "vae-gaussian") {
    likelihood.values = Values::gaussian;
    if (!parsed.arguments.empty()) likelihood.scale = parse_number(parsed.arguments, "STDDEV in vae-gaussian:STDDEV");
    require(likelihood.scale > 0.0, "STDDEV in vae-gaussian:STDDEV must be positive, not {}", parsed.arguments);
    return likelihood;
  }
  likelihood.normalization = examples.normalization;
  likelihood.binarize = images;
  if (parsed.name == "vae-bernoulli") {
    require(parsed.arguments.empty(), "vae-bernoulli takes no arguments, not '{}'", parsed.arguments);
    return likelihood;
  }
  likelihood.values = Values::levels;
  likelihood.levels =
      parsed.arguments.empty() ? 16 : parse_integer(parsed.arguments, "LEVELS in vae-categorical:LEVELS");
  require(likelihood.levels >= 2 && likelihood.levels <= kMostLevels,
          "LEVELS in vae-categorical:LEVELS must be between 2 and {}, not {}", kMostLevels, parsed.arguments);
  require(images, "vae-categorical describes pixels of images, and these examples are none; use vae-gaussian:STDDEV");
  return likelihood;
}

Likelihood likelihood_of(const Likelihood& likelihood, const torch::nn::Module& module) {
  const bool vae_module = dynamic_cast<const VaeImpl*>(&module) != nullptr;
  const bool vae_likelihood = std::holds_alternative<VaeLikelihood>(likelihood);
  require(!vae_module || vae_likelihood,
          "the network vae describes its inputs: its likelihood is vae-bernoulli, vae-categorical[:LEVELS] or "
          "vae-gaussian[:STDDEV]");
  require(vae_module || !vae_likelihood,
          "the likelihoods vae-bernoulli, vae-categorical and vae-gaussian are for --network vae:LATENT");
  const auto* depth = dynamic_cast<const AdaptiveDepthImpl*>(&module);
  if (depth == nullptr) return likelihood;
  require(describe_alteration(likelihood).empty(),
          "the network adaptive-depth weighs the likelihoods of its depths, which {} would change; use categorical",
          describe_alteration(likelihood));
  return DepthLikelihood{std::make_shared<const Likelihood>(likelihood), depth->depths()};
}

torch::Tensor vae_targets(const VaeLikelihood& l, const Batch& batch, torch::Dtype dtype) {
  const torch::Tensor inputs =
      torch::from_blob(const_cast<float*>(batch.inputs.data()), {batch.size, l.columns}, torch::kFloat32)
          .to(torch::kFloat64);
  if (l.values == Values::gaussian) return inputs.to(dtype);
  const torch::Tensor pixels = pixels_of(l, inputs);
  if (l.values == Values::levels) {
    const torch::Tensor bytes = (pixels * kLargestPixel).round().clamp(0.0, kLargestPixel);
    return (bytes * (static_cast<double>(l.levels) / (kLargestPixel + 1.0))).floor().to(torch::kInt64);
  }
  if (l.binarize) return pixels.gt(0.5).to(dtype);
  if (!(pixels.eq(0.0) | pixels.eq(1.0)).all().item<bool>()) {
    throw DataError("the likelihood vae-bernoulli needs inputs 0 or 1, and one is neither; use vae-gaussian:STDDEV");
  }
  return pixels.to(dtype);
}

VaeBounds vae_bounds(const VaeLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& targets) {
  require(outputs.dim() == 2 && outputs.size(1) == columns_read(l),
          "the likelihood of a vae reads {} values per example and was given {}", columns_read(l),
          outputs.numel() / std::max<std::int64_t>(outputs.size(0), 1));
  const std::int64_t decoded = output_size(l);
  const torch::Tensor log_p = reconstruction(l, outputs.narrow(1, 0, decoded), targets);
  return {log_p - outputs.select(1, decoded), log_p - outputs.select(1, decoded + 1)};
}

torch::Tensor vae_mean(const VaeLikelihood& l, const torch::Tensor& decoded) {
  if (l.values == Values::gaussian) return decoded;
  if (l.values == Values::bernoulli) return decoded.sigmoid();
  const torch::Tensor levels = torch::arange(l.levels, decoded.options()) / static_cast<double>(l.levels - 1);
  return (torch::softmax(decoded.view({-1, l.columns, l.levels}), 2) * levels).sum(2);
}

torch::Tensor vae_pixels(const VaeLikelihood& l, const torch::Tensor& targets) {
  return l.values == Values::levels ? targets / static_cast<double>(l.levels - 1) : targets;
}

torch::Tensor outputs_at_depth(const DepthLikelihood& l, const torch::Tensor& outputs, std::int64_t depth) {
  const std::int64_t size = output_size(*l.inner);
  const torch::Tensor own = outputs.narrow(1, depth * size, size);
  const std::int64_t more = columns_read(*l.inner) - size;  // parameters of the inner likelihood
  return more == 0 ? own : torch::cat({own, outputs.narrow(1, outputs.size(1) - more, more)}, 1);
}

torch::Tensor log_depth_probabilities(const DepthLikelihood& l, const torch::Tensor& outputs) {
  require(outputs.dim() == 2 && outputs.size(1) == columns_read(l),
          "the likelihood of a network of adaptive depth reads {} values per example and was given {}", columns_read(l),
          outputs.numel() / std::max<std::int64_t>(outputs.size(0), 1));
  return outputs.narrow(1, l.depths * output_size(*l.inner), l.depths);
}

torch::Tensor outputs_at_mode(const DepthLikelihood& l, const torch::Tensor& outputs) {
  const std::int64_t size = output_size(*l.inner);
  const torch::Tensor mode = log_depth_probabilities(l, outputs).argmax(1);
  const torch::Tensor places =
      mode.unsqueeze(1) * size + torch::arange(size, mode.options()).unsqueeze(0);  // [B, size]
  const torch::Tensor own = outputs.gather(1, places);
  const std::int64_t more = columns_read(*l.inner) - size;
  return more == 0 ? own : torch::cat({own, outputs.narrow(1, outputs.size(1) - more, more)}, 1);
}

torch::Tensor depth_elbo(const DepthLikelihood& l, const torch::Tensor& outputs, const torch::Tensor& targets) {
  const torch::Tensor q = log_depth_probabilities(l, outputs).exp();
  torch::Tensor total = -outputs.select(1, l.depths * (output_size(*l.inner) + 1));
  for (std::int64_t depth = 0; depth < l.depths; ++depth) {
    const torch::Tensor log_p = log_densities(*l.inner, outputs_at_depth(l, outputs, depth), targets);
    total = total + q.select(1, depth) * log_p;
  }
  return total;
}

}  // namespace credence
