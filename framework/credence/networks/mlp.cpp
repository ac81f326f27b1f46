#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

/// Fully connected layers fc1, fc2, ...; [B, ...] -> [B, outputs].
struct MlpImpl : torch::nn::Module {
  MlpImpl(std::int64_t inputs, const std::vector<std::int64_t>& widths, std::int64_t outputs, Nonlinearity nonlinearity,
          bool bias)
      : nonlinearity_(nonlinearity) {
    std::int64_t previous = inputs;
    std::vector<std::int64_t> sizes = widths;
    sizes.push_back(outputs);
    for (const std::int64_t size : sizes) {
      layers_.push_back(register_module("fc" + std::to_string(layers_.size() + 1),
                                        Linear(torch::nn::LinearOptions(previous, size).bias(bias))));
      previous = size;
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    x = x.flatten(1);
    for (std::size_t i = 0; i + 1 < layers_.size(); ++i) {
      x = layers_[i](x);
      x = nonlinearity_ == Nonlinearity::tanh ? torch::tanh(x) : x.relu_();
    }
    return layers_.back()(x);
  }

 private:
  Nonlinearity nonlinearity_;
  std::vector<Linear> layers_;
};
TORCH_MODULE(Mlp);

/// The same outputs for every input: a coin without covariates.
struct ConstantImpl : torch::nn::Module {
  explicit ConstantImpl(std::int64_t outputs) { bias = register_parameter("bias", torch::zeros({outputs})); }
  torch::Tensor forward(torch::Tensor x) { return bias.expand({x.size(0), bias.size(0)}); }
  torch::Tensor bias;
};
TORCH_MODULE(Constant);

}  // namespace

torch::nn::AnyModule make_mlp(const ModuleRequest& request) {
  std::vector<std::int64_t> widths;
  Nonlinearity nonlinearity = Nonlinearity::relu;
  bool bias = true;
  for (const std::string& part : split(request.arguments, ',')) {
    if (part == "relu") {
      nonlinearity = Nonlinearity::relu;
    } else if (part == "tanh") {
      nonlinearity = Nonlinearity::tanh;
    } else if (part == "nobias") {
      bias = false;
    } else {
      widths.push_back(parse_integer(part, "a width, relu, tanh or nobias in mlp:..."));
      require(widths.back() > 0 && widths.back() <= 1'000'000,
              "a layer of mlp:... has between 1 and 1000000 units, not {}", part);
    }
  }
  require(!widths.empty(), "mlp needs the widths of its hidden layers, such as mlp:400,400");
  Mlp network(request.examples.input_elements(), widths, request.outputs, nonlinearity, bias);
  initialize(*network, nonlinearity, request.seed);
  return torch::nn::AnyModule(network);
}

torch::nn::AnyModule make_linear(const ModuleRequest& request) {
  require(request.arguments.empty() || request.arguments == "nobias", "linear takes no arguments but nobias, not '{}'",
          request.arguments);
  Mlp network(request.examples.input_elements(), std::vector<std::int64_t>{}, request.outputs, Nonlinearity::linear,
              request.arguments.empty());
  initialize(*network, Nonlinearity::linear, request.seed);
  return torch::nn::AnyModule(network);
}

torch::nn::AnyModule make_constant(const ModuleRequest& request) {
  require(request.arguments.empty(), "constant takes no arguments, not '{}'", request.arguments);
  return torch::nn::AnyModule(Constant(request.outputs));
}

}  // namespace credence
