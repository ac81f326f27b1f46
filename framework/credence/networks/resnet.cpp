#include "credence/base/errors.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

using torch::nn::BatchNorm2d;
using torch::nn::Sequential;

Conv2d conv3x3(std::int64_t inputs, std::int64_t outputs, std::int64_t stride) {
  return Conv2d(torch::nn::Conv2dOptions(inputs, outputs, 3).stride(stride).padding(1).bias(false));
}

/// Two 3x3 convolutions around a shortcut without parameters: where the shape changes, every second pixel and zeros for
/// the new channels (option A of He et al. 2016, sec. 4.2).
struct BasicBlockImpl : torch::nn::Module {
  BasicBlockImpl(std::int64_t inputs, std::int64_t outputs, std::int64_t stride)
      : new_channels_(outputs - inputs), stride_(stride) {
    conv1 = register_module("conv1", conv3x3(inputs, outputs, stride));
    bn1 = register_module("bn1", BatchNorm2d(outputs));
    conv2 = register_module("conv2", conv3x3(outputs, outputs, 1));
    bn2 = register_module("bn2", BatchNorm2d(outputs));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = bn1(conv1(x)).relu_();
    y = bn2(conv2(y));
    torch::Tensor shortcut = x;
    if (stride_ != 1) {
      using torch::indexing::None;
      using torch::indexing::Slice;
      shortcut = x.index({Slice(), Slice(), Slice(None, None, stride_), Slice(None, None, stride_)});
    }
    if (new_channels_ > 0) {
      shortcut = torch::constant_pad_nd(shortcut, {0, 0, 0, 0, new_channels_ / 2, new_channels_ - new_channels_ / 2});
    }
    return y.add_(shortcut).relu_();
  }

  std::int64_t new_channels_;
  std::int64_t stride_;
  Conv2d conv1{nullptr}, conv2{nullptr};
  BatchNorm2d bn1{nullptr}, bn2{nullptr};
};
TORCH_MODULE(BasicBlock);

constexpr int kBlocksPerStage = 3;

struct ResNet20Impl : torch::nn::Module {
  ResNet20Impl(std::int64_t channels, std::int64_t outputs) {
    conv1 = register_module("conv1", conv3x3(channels, 16, 1));
    bn1 = register_module("bn1", BatchNorm2d(16));
    std::int64_t inputs = 16;
    for (int stage = 0; stage < 3; ++stage) {
      const std::int64_t width = std::int64_t{16} << stage;
      Sequential blocks;
      for (int block = 0; block < kBlocksPerStage; ++block) {
        blocks->push_back(BasicBlock(inputs, width, stage > 0 && block == 0 ? 2 : 1));
        inputs = width;
      }
      stages_.push_back(register_module("layer" + std::to_string(stage + 1), blocks));
    }
    fc = register_module("fc", Linear(torch::nn::LinearOptions(64, outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = bn1(conv1(x)).relu_();                                // [B, 16, H, W]
    for (Sequential& stage : stages_) x = stage->forward(x);  // [B, 64, H/4, W/4]
    return fc(x.mean({2, 3}));
  }

  Conv2d conv1{nullptr};
  BatchNorm2d bn1{nullptr};
  std::vector<Sequential> stages_;
  Linear fc{nullptr};
};
TORCH_MODULE(ResNet20);

}  // namespace

torch::nn::AnyModule make_resnet20(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                   std::uint64_t seed) {
  require(arguments.empty(), "resnet20 takes no arguments, not '{}'", arguments);
  require_images("resnet20", examples, 28);
  ResNet20 network(examples.input_shape[0], outputs);
  initialize(*network, Nonlinearity::relu, seed);
  return torch::nn::AnyModule(network);
}

}  // namespace credence
