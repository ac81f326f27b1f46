#include "credence/base/errors.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/norm.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

using torch::nn::Sequential;

Conv2d conv3x3(std::int64_t inputs, std::int64_t outputs, std::int64_t stride, Norm norm) {
  return Conv2d(torch::nn::Conv2dOptions(inputs, outputs, 3).stride(stride).padding(1).bias(norm == Norm::none));
}

/// Two 3x3 convolutions around a shortcut without parameters: where the shape changes, every second pixel and zeros for
/// the new channels (option A of He et al. 2016, sec. 4.2).
struct BasicBlockImpl : torch::nn::Module {
  BasicBlockImpl(std::int64_t inputs, std::int64_t outputs, std::int64_t stride, Norm norm)
      : new_channels_(outputs - inputs), stride_(stride) {
    conv1 = register_module("conv1", conv3x3(inputs, outputs, stride, norm));
    bn1 = add_norm(*this, "bn1", norm, outputs);
    conv2 = register_module("conv2", conv3x3(outputs, outputs, 1, norm));
    bn2 = add_norm(*this, "bn2", norm, outputs);
  }

  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = bn1->normalize_and_activate(conv1(x));
    y = bn2->normalize(conv2(y));
    torch::Tensor shortcut = x;
    if (stride_ != 1) {
      using torch::indexing::None;
      using torch::indexing::Slice;
      shortcut = x.index({Slice(), Slice(), Slice(None, None, stride_), Slice(None, None, stride_)});
    }
    if (new_channels_ > 0) {
      shortcut = torch::constant_pad_nd(shortcut, {0, 0, 0, 0, new_channels_ / 2, new_channels_ - new_channels_ / 2});
    }
    return bn2->activate(y.add_(shortcut));
  }

  std::int64_t new_channels_;
  std::int64_t stride_;
  Conv2d conv1{nullptr}, conv2{nullptr};
  NormLayer *bn1, *bn2;
};
TORCH_MODULE(BasicBlock);

constexpr int kBlocksPerStage = 3;

struct ResNet20Impl : torch::nn::Module {
  ResNet20Impl(std::int64_t channels, std::int64_t outputs, Norm norm) {
    conv1 = register_module("conv1", conv3x3(channels, 16, 1, norm));
    bn1 = add_norm(*this, "bn1", norm, 16);
    std::int64_t inputs = 16;
    for (int stage = 0; stage < 3; ++stage) {
      const std::int64_t width = std::int64_t{16} << stage;
      Sequential blocks;
      for (int block = 0; block < kBlocksPerStage; ++block) {
        blocks->push_back(BasicBlock(inputs, width, stage > 0 && block == 0 ? 2 : 1, norm));
        inputs = width;
      }
      stages_.push_back(register_module("layer" + std::to_string(stage + 1), blocks));
    }
    fc = register_module("fc", Linear(torch::nn::LinearOptions(64, outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = with_channels_last(x);
    x = bn1->normalize_and_activate(conv1(x));                // [B, 16, H, W]
    for (Sequential& stage : stages_) x = stage->forward(x);  // [B, 64, H/4, W/4]
    return fc(x.mean({2, 3}));
  }

  Conv2d conv1{nullptr};
  NormLayer* bn1;
  std::vector<Sequential> stages_;
  Linear fc{nullptr};
};
TORCH_MODULE(ResNet20);

}  // namespace

torch::nn::AnyModule make_resnet20(const ModuleRequest& request) {
  require(request.arguments.empty(), "resnet20 takes no arguments, not '{}'", request.arguments);
  require_images("resnet20", request.examples, 28);
  ResNet20 network(request.examples.input_shape[0], request.outputs, request.norm.value_or(Norm::batch));
  initialize(*network, Nonlinearity::relu, request.seed);
  return torch::nn::AnyModule(network);
}

}  // namespace credence
