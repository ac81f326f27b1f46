#include "credence/base/errors.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

constexpr std::int64_t kLenetPixels = 28;

/// [B, C, H, W] -> [B, outputs]. The first convolution pads by two, so that 28 px give LeNet-5's own 400 features.
struct LeNet5Impl : torch::nn::Module {
  LeNet5Impl(std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t outputs) {
    const auto features = [](std::int64_t pixels) { return (pixels / 2 - 4) / 2; };
    conv1 = register_module("conv1", Conv2d(torch::nn::Conv2dOptions(channels, 6, 5).padding(2)));
    conv2 = register_module("conv2", Conv2d(torch::nn::Conv2dOptions(6, 16, 5)));
    fc1 = register_module("fc1", Linear(torch::nn::LinearOptions(16 * features(height) * features(width), 120)));
    fc2 = register_module("fc2", Linear(torch::nn::LinearOptions(120, 84)));
    fc3 = register_module("fc3", Linear(torch::nn::LinearOptions(84, outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(conv1(x), 2).relu_();  // [B, 6, H/2, W/2]; relu and max commute
    x = torch::max_pool2d(conv2(x), 2).relu_();  // [B, 16, 5, 5] from 28 px
    x = fc1(x.flatten(1)).relu_();
    x = fc2(x).relu_();
    return fc3(x);
  }

  Conv2d conv1{nullptr}, conv2{nullptr};
  Linear fc1{nullptr}, fc2{nullptr}, fc3{nullptr};
};
TORCH_MODULE(LeNet5);

/// [B, C, H, W] -> [B, outputs]. As in Caffe's example, no relu follows the convolutions.
struct CaffeLeNet5Impl : torch::nn::Module {
  CaffeLeNet5Impl(std::int64_t channels, std::int64_t height, std::int64_t width, std::int64_t outputs) {
    const auto features = [](std::int64_t pixels) { return ((pixels - 4) / 2 - 4) / 2; };
    conv1 = register_module("conv1", Conv2d(torch::nn::Conv2dOptions(channels, 20, 5)));
    conv2 = register_module("conv2", Conv2d(torch::nn::Conv2dOptions(20, 50, 5)));
    fc1 = register_module("fc1", Linear(torch::nn::LinearOptions(50 * features(height) * features(width), 500)));
    fc2 = register_module("fc2", Linear(torch::nn::LinearOptions(500, outputs)));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(conv1(x), 2);  // [B, 20, 12, 12] from 28 px
    x = torch::max_pool2d(conv2(x), 2);  // [B, 50, 4, 4]
    return fc2(fc1(x.flatten(1)).relu_());
  }

  Conv2d conv1{nullptr}, conv2{nullptr};
  Linear fc1{nullptr}, fc2{nullptr};
};
TORCH_MODULE(CaffeLeNet5);

template <typename Module>
torch::nn::AnyModule make(const std::string& name, const ModuleRequest& request) {
  require(request.arguments.empty(), "{} takes no arguments, not '{}'", name, request.arguments);
  require_images(name, request.examples, kLenetPixels);
  const auto& shape = request.examples.input_shape;
  Module network(shape[0], shape[1], shape[2], request.outputs);
  initialize(*network, Nonlinearity::relu, request.seed);
  return torch::nn::AnyModule(network);
}

}  // namespace

torch::nn::AnyModule make_lenet5(const ModuleRequest& request) {
  return make<LeNet5>("lenet5", request);
}

torch::nn::AnyModule make_lenet5_caffe(const ModuleRequest& request) {
  return make<CaffeLeNet5>("lenet5-caffe", request);
}

}  // namespace credence
