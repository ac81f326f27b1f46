#include <algorithm>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/norm.h"
#include "credence/networks/zoo.h"

// The residual networks of He et al. 2016, sec. 4.1, with the names and the numbers of torchvision's: bottlenecks have
// their stride in the 3x3 convolution ("version 1.5").

namespace credence {
namespace {

using torch::nn::Sequential;

constexpr std::int64_t kLeastPixels = 28;
constexpr std::int64_t kStemWidth = 64;

struct Layers {
  Norm norm = Norm::batch;
  std::array<int, 4> blocks{};
  bool bottleneck = false;
  bool small_images = false;  // 3x3 stem without stride and pooling, as the field has it for 32 pixels
  bool zero_scale = true;     // each block begins as its shortcut (Goyal et al. 2017, sec. 5.1)

  std::int64_t expansion() const { return bottleneck ? 4 : 1; }
};

Conv2d convolution(std::int64_t inputs, std::int64_t outputs, std::int64_t pixels, std::int64_t stride, Norm norm) {
  return Conv2d(
      torch::nn::Conv2dOptions(inputs, outputs, pixels).stride(stride).padding(pixels / 2).bias(norm == Norm::none));
}

/// A projection where the shape changes: children 0 (convolution) and 1 (norm).
struct ShortcutImpl : torch::nn::Module {
  ShortcutImpl(std::int64_t inputs, std::int64_t outputs, std::int64_t stride, Norm norm) {
    conv = register_module("0", convolution(inputs, outputs, 1, stride, norm));
    bn = add_linear_norm(*this, "1", norm, outputs);
  }
  torch::Tensor forward(const torch::Tensor& x) { return bn->normalize(conv(x)); }
  Conv2d conv{nullptr};
  NormLayer* bn;
};
TORCH_MODULE(Shortcut);

/// conv1, bn1, conv2, bn2[, conv3, bn3][, downsample]: two 3x3 convolutions, or 1x1, 3x3 and 1x1.
struct ResidualBlockImpl : torch::nn::Module {
  ResidualBlockImpl(const Layers& layers, std::int64_t inputs, std::int64_t width, std::int64_t stride) {
    const std::int64_t outputs = width * layers.expansion();
    if (layers.bottleneck) {
      add(convolution(inputs, width, 1, 1, layers.norm), width, layers.norm);
      add(convolution(width, width, 3, stride, layers.norm), width, layers.norm);
      add(convolution(width, outputs, 1, 1, layers.norm), outputs, layers.norm);
    } else {
      add(convolution(inputs, width, 3, stride, layers.norm), width, layers.norm);
      add(convolution(width, outputs, 3, 1, layers.norm), outputs, layers.norm);
    }
    if (stride != 1 || inputs != outputs) {
      downsample = register_module("downsample", Shortcut(inputs, outputs, stride, layers.norm));
    }
  }

  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = x;
    for (std::size_t i = 0; i + 1 < convolutions.size(); ++i) y = norms[i]->normalize_and_activate(convolutions[i](y));
    y = norms.back()->normalize(convolutions.back()(y));
    return norms.back()->activate(y.add_(downsample ? downsample(x) : x));
  }

  /// A block of zeros to add to its shortcut: by the scale of its last norm, or without one by its last convolution.
  void begin_as_shortcut(Norm norm) {
    if (norm == Norm::none) {
      convolutions.back()->weight.zero_();
    } else {
      norms.back()->zero_scale();
    }
  }

  void add(const Conv2d& layer, std::int64_t channels, Norm norm) {
    const std::string number = std::to_string(convolutions.size() + 1);
    convolutions.push_back(register_module("conv" + number, layer));
    norms.push_back(add_norm(*this, "bn" + number, norm, channels));
  }

  std::vector<Conv2d> convolutions;
  std::vector<NormLayer*> norms;
  Shortcut downsample{nullptr};
};
TORCH_MODULE(ResidualBlock);

struct DeepResNetImpl : torch::nn::Module {
  DeepResNetImpl(const Layers& layers, std::int64_t channels, std::int64_t outputs) : layers_(layers) {
    conv1 = register_module("conv1", layers.small_images ? convolution(channels, kStemWidth, 3, 1, layers.norm)
                                                         : convolution(channels, kStemWidth, 7, 2, layers.norm));
    bn1 = add_norm(*this, "bn1", layers.norm, kStemWidth);
    std::int64_t inputs = kStemWidth;
    for (std::size_t stage = 0; stage < layers.blocks.size(); ++stage) {
      const std::int64_t width = kStemWidth << stage;
      Sequential blocks;
      for (int block = 0; block < layers.blocks[stage]; ++block) {
        blocks->push_back(ResidualBlock(layers, inputs, width, stage > 0 && block == 0 ? 2 : 1));
        inputs = width * layers.expansion();
      }
      stages.push_back(register_module("layer" + std::to_string(stage + 1), blocks));
    }
    fc = register_module("fc", Linear(torch::nn::LinearOptions(inputs, outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = with_channels_last(x);
    x = bn1->normalize_and_activate(conv1(x));  // [B, 64, H/2, W/2], or H, W for small images
    if (!layers_.small_images) x = torch::max_pool2d(x, 3, 2, 1);
    for (Sequential& stage : stages) x = stage->forward(x);
    return fc(x.mean({2, 3}));
  }

  void initialize_weights(std::uint64_t seed) {
    initialize(*this, layers_.norm == Norm::none ? Nonlinearity::relu_unnormalized : Nonlinearity::relu, seed);
    if (!layers_.zero_scale) return;
    const torch::NoGradGuard no_grad;
    for (const auto& part : modules()) {
      if (auto* block = part->as<ResidualBlock>()) block->begin_as_shortcut(layers_.norm);
    }
  }

  Layers layers_;
  Conv2d conv1{nullptr};
  NormLayer* bn1;
  std::vector<Sequential> stages;
  Linear fc{nullptr};
};
TORCH_MODULE(DeepResNet);

torch::nn::AnyModule make_deep_resnet(const std::string& name, Layers layers, const ModuleRequest& request) {
  for (const std::string& part : split(request.arguments, ',')) {
    if (part == "cifar") {
      layers.small_images = true;
    } else if (part == "unit-scale") {
      layers.zero_scale = false;
    } else {
      require(false, "{} takes the arguments cifar and unit-scale, not '{}'", name, part);
    }
  }
  require_images(name, request.examples, kLeastPixels);
  layers.norm = request.norm.value_or(Norm::batch);
  DeepResNet network(layers, request.examples.input_shape[0], request.outputs);
  network->initialize_weights(request.seed);
  return torch::nn::AnyModule(network);
}

}  // namespace

torch::nn::AnyModule make_resnet18(const ModuleRequest& request) {
  return make_deep_resnet("resnet18", {.blocks = {2, 2, 2, 2}}, request);
}

torch::nn::AnyModule make_resnet34(const ModuleRequest& request) {
  return make_deep_resnet("resnet34", {.blocks = {3, 4, 6, 3}}, request);
}

torch::nn::AnyModule make_resnet50(const ModuleRequest& request) {
  return make_deep_resnet("resnet50", {.blocks = {3, 4, 6, 3}, .bottleneck = true}, request);
}

torch::nn::AnyModule make_resnet101(const ModuleRequest& request) {
  return make_deep_resnet("resnet101", {.blocks = {3, 4, 23, 3}, .bottleneck = true}, request);
}

torch::nn::AnyModule make_resnet152(const ModuleRequest& request) {
  return make_deep_resnet("resnet152", {.blocks = {3, 8, 36, 3}, .bottleneck = true}, request);
}

}  // namespace credence
