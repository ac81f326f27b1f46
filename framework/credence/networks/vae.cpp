#include "credence/networks/vae.h"

#include <algorithm>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

torch::nn::Sequential make_layers(const std::vector<std::int64_t>& sizes) {
  torch::nn::Sequential layers;
  for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
    const std::string number = std::to_string(i + 1);
    if (i > 0) layers->push_back("relu" + std::to_string(i), torch::nn::ReLU());
    layers->push_back("fc" + number, Linear(torch::nn::LinearOptions(sizes[i], sizes[i + 1])));
  }
  return layers;
}

}  // namespace

VaeImpl::VaeImpl(const Sizes& sizes) : latent_(sizes.latent) {
  std::vector<std::int64_t> down = {sizes.inputs};
  down.insert(down.end(), sizes.widths.begin(), sizes.widths.end());
  std::vector<std::int64_t> up = {sizes.latent};
  up.insert(up.end(), sizes.widths.rbegin(), sizes.widths.rend());
  down.push_back(2 * sizes.latent);
  up.push_back(sizes.outputs);
  encoder_ = register_module("encoder", make_layers(down));
  decoder_ = register_module("decoder", make_layers(up));
}

VaeImpl::Code VaeImpl::encode(const torch::Tensor& x) {
  const torch::Tensor code = encoder_->forward(x.flatten(1));
  return {code.narrow(1, 0, latent_), code.narrow(1, latent_, latent_)};
}

torch::Tensor VaeImpl::decode(torch::Tensor z) {
  return decoder_->forward(z);
}

torch::Tensor VaeImpl::forward(torch::Tensor x) {
  const auto [mean, log_variance] = encode(x);
  const torch::Tensor eps = torch::randn_like(mean);
  const torch::Tensor z = mean + torch::exp(log_variance * 0.5) * eps;
  const torch::Tensor ratio = (z * z - eps * eps - log_variance).sum(1, /*keepdim=*/true) * 0.5;
  const torch::Tensor kl = (mean * mean + log_variance.exp() - 1.0 - log_variance).sum(1, /*keepdim=*/true) * 0.5;
  return torch::cat({decode(z), ratio, kl}, 1);
}

torch::nn::AnyModule make_vae(const ModuleRequest& request) {
  const auto in_range = [](const std::string& text, const char* what) {
    const std::int64_t value = parse_integer(text, what);
    require(value > 0 && value <= 1'000'000, "{} must be between 1 and 1000000, not {}", what, text);
    return value;
  };
  const std::vector<std::string> parts = split(request.arguments, ',');
  require(!parts.empty(), "vae needs the number of its latent variables, such as vae:20 or vae:20,400");
  VaeImpl::Sizes sizes{.inputs = request.examples.input_elements(), .outputs = request.outputs};
  sizes.latent = in_range(parts.front(), "LATENT in vae:LATENT,WIDTH,...");
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (parts[i] == "linear" && parts.size() == 2) continue;
    sizes.widths.push_back(in_range(parts[i], "a width in vae:LATENT,WIDTH,... (or 'linear' for none)"));
  }
  if (parts.size() == 1) sizes.widths = {400};
  Vae network(sizes);
  initialize(*network, Nonlinearity::relu, request.seed);
  return torch::nn::AnyModule(network);
}

}  // namespace credence
