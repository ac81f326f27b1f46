#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/norm.h"
#include "credence/networks/zoo.h"

// Wide residual networks with activations before convolutions (Zagoruyko and Komodakis 2016; He et al. 2016b).

namespace credence {
namespace {

using torch::nn::Sequential;

constexpr std::int64_t kStages = 3;
constexpr std::int64_t kLeastPixels = 28;
constexpr std::int64_t kMostDepth = 1000;
constexpr std::int64_t kMostWidth = 100;

Conv2d convolution(std::int64_t inputs, std::int64_t outputs, std::int64_t pixels, std::int64_t stride, Norm norm) {
  return Conv2d(
      torch::nn::Conv2dOptions(inputs, outputs, pixels).stride(stride).padding(pixels / 2).bias(norm == Norm::none));
}

/// bn1, conv1, bn2, conv2[, shortcut]. Where the shape changes, the 1x1 shortcut reads what bn1 gives, else the input
/// itself is added.
struct WideBlockImpl : torch::nn::Module {
  WideBlockImpl(std::int64_t inputs, std::int64_t outputs, std::int64_t stride, Norm norm) {
    bn1 = add_norm(*this, "bn1", norm, inputs);
    conv1 = register_module("conv1", convolution(inputs, outputs, 3, stride, norm));
    bn2 = add_norm(*this, "bn2", norm, outputs);
    conv2 = register_module("conv2", convolution(outputs, outputs, 3, 1, norm));
    if (inputs != outputs) shortcut = register_module("shortcut", convolution(inputs, outputs, 1, stride, norm));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor active = bn1->normalize_and_activate(x);
    const torch::Tensor y = conv2(bn2->normalize_and_activate(conv1(active)));
    return y + (shortcut ? shortcut(active) : x);
  }

  NormLayer *bn1, *bn2;
  Conv2d conv1{nullptr}, conv2{nullptr}, shortcut{nullptr};
};
TORCH_MODULE(WideBlock);

struct WideResNetImpl : torch::nn::Module {
  WideResNetImpl(std::int64_t blocks, std::int64_t width, const ModuleRequest& request) {
    const Norm norm = request.norm.value_or(Norm::batch);
    conv1 = register_module("conv1", convolution(request.examples.input_shape[0], 16, 3, 1, norm));
    std::int64_t inputs = 16;
    for (std::int64_t stage = 0; stage < kStages; ++stage) {
      const std::int64_t outputs = (16 * width) << stage;
      Sequential layers;
      for (std::int64_t block = 0; block < blocks; ++block) {
        layers->push_back(WideBlock(inputs, outputs, stage > 0 && block == 0 ? 2 : 1, norm));
        inputs = outputs;
      }
      stages.push_back(register_module("layer" + std::to_string(stage + 1), layers));
    }
    bn1 = add_norm(*this, "bn1", norm, inputs);
    fc = register_module("fc", Linear(torch::nn::LinearOptions(inputs, request.outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = conv1(with_channels_last(x));
    for (Sequential& stage : stages) x = stage->forward(x);
    return fc(bn1->normalize_and_activate(x).mean({2, 3}));
  }

  Conv2d conv1{nullptr};
  std::vector<Sequential> stages;
  NormLayer* bn1;
  Linear fc{nullptr};
};
TORCH_MODULE(WideResNet);

}  // namespace

torch::nn::AnyModule make_wide_resnet(const ModuleRequest& request) {
  const std::vector<std::string> parts = split(request.arguments, ',');
  require(parts.size() == 2, "wide-resnet needs its depth and its width, as in wide-resnet:28,10, not '{}'",
          request.arguments);
  const std::int64_t depth = parse_integer(parts[0], "DEPTH in wide-resnet:DEPTH,WIDTH");
  const std::int64_t width = parse_integer(parts[1], "WIDTH in wide-resnet:DEPTH,WIDTH");
  require(depth >= 10 && depth <= kMostDepth && (depth - 4) % 6 == 0,
          "DEPTH in wide-resnet:DEPTH,WIDTH must be 6 n + 4, such as 16, 28 or 40, and at most {}, not {}", kMostDepth,
          depth);
  require(width >= 1 && width <= kMostWidth, "WIDTH in wide-resnet:DEPTH,WIDTH must be between 1 and {}, not {}",
          kMostWidth, width);
  require_images("wide-resnet", request.examples, kLeastPixels);
  WideResNet network((depth - 4) / 6, width, request);
  const bool normalized = request.norm.value_or(Norm::batch) != Norm::none;
  initialize(*network, normalized ? Nonlinearity::relu : Nonlinearity::relu_unnormalized, request.seed);
  if (!normalized) {  // each block begins as its shortcut (Zhang et al. 2019)
    const torch::NoGradGuard no_grad;
    for (const auto& part : network->modules()) {
      if (auto* block = part->as<WideBlock>()) block->conv2->weight.zero_();
    }
  }
  return torch::nn::AnyModule(network);
}

}  // namespace credence
