#include "credence/networks/layers.h"

#include <utility>
#include <vector>

#include "credence/base/errors.h"

namespace credence {
namespace {

// Below any variance that matters and above float's smallest normal number: the root's slope stays finite where every
// input of a unit is zero.
constexpr double kLeastVariance = 1e-30;

torch::Tensor square_of(const torch::Tensor& values) {
  return values.defined() ? values.square() : values;
}

}  // namespace

void NoisyLayer::set_noise(const ActivationNoise* noise, int layer, Second second) {
  noise_ = noise;
  layer_ = layer;
  second_ = std::move(second);
}

torch::Tensor NoisyLayer::noisy(const torch::Tensor& x, const torch::Tensor& mean, std::int64_t outputs,
                                const Map& map) const {
  if (noise_->kind == ActivationNoise::Kind::local) {
    const torch::Tensor variance = map(x.square(), second_.weight.square(), square_of(second_.bias));
    return mean + variance.clamp_min(kLeastVariance).sqrt() * noise_->draw(layer_, mean.sizes());
  }
  const std::int64_t inputs = x.size(1);
  const torch::Tensor signs = noise_->draw(layer_, {x.size(0), inputs + outputs});
  const auto per_channel = [&](std::int64_t first, std::int64_t count) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
    shape[0] = x.size(0);
    shape[1] = count;
    return signs.narrow(1, first, count).reshape(shape);
  };
  return mean + per_channel(inputs, outputs) * map(x * per_channel(0, inputs), second_.weight, second_.bias);
}

LinearImpl::LinearImpl(const torch::nn::LinearOptions& chosen, bool reads_rows)
    : torch::nn::LinearImpl(chosen), NoisyLayer(/*convolves=*/false, reads_rows) {}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const torch::Tensor mean = torch::nn::LinearImpl::forward(x);
  if (!is_noisy()) return mean;
  require(x.dim() == 2,
          "activation noise needs inputs [examples, features] of a linear layer, not of {} axes; use "
          "--estimator reparam",
          x.dim());
  return noisy(x, mean, options.out_features(),
               [](const torch::Tensor& inputs, const torch::Tensor& w, const torch::Tensor& b) {
                 return torch::nn::functional::linear(inputs, w, b);
               });
}

Conv2dImpl::Conv2dImpl(const torch::nn::Conv2dOptions& chosen)
    : torch::nn::Conv2dImpl(chosen), NoisyLayer(/*convolves=*/true) {
  require(std::holds_alternative<torch::enumtype::kZeros>(chosen.padding_mode()),
          "credence::Conv2d pads with zeros; use torch::nn::Conv2d for other padding");
}

torch::Tensor Conv2dImpl::forward(const torch::Tensor& x) {
  const torch::Tensor mean = torch::nn::Conv2dImpl::forward(x);
  if (!is_noisy()) return mean;
  require(x.dim() == 4,
          "activation noise needs inputs [examples, channels, height, width] of a convolution, not of {} "
          "axes; use --estimator reparam",
          x.dim());
  return noisy(x, mean, options.out_channels(),
               [this](const torch::Tensor& inputs, const torch::Tensor& w, const torch::Tensor& b) {
                 return torch::nn::functional::detail::conv2d(inputs, w, b, options.stride(), options.padding(),
                                                              options.dilation(), options.groups());
               });
}

}  // namespace credence
