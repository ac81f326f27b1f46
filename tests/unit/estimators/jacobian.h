// Jacobians of small networks by central differences in float64.
#pragma once

#include "unit/estimators/cases.h"

namespace credence::test {

/// A convolution with stride, padding and pooling, a Linear with an in-place nonlinearity, and a parameter of no layer.
struct Mixed : torch::nn::Module {
  Mixed()
      : conv(register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3).stride(2).padding(1)))),
        hidden(register_module("hidden", torch::nn::Linear(12, 4))),
        last(register_module("last", torch::nn::Linear(torch::nn::LinearOptions(4, 3).bias(false)))),
        gain(register_parameter("gain", torch::ones({4}))) {}
  torch::Tensor forward(torch::Tensor x) {  // [B, 2, 7, 7]
    x = torch::avg_pool2d(conv(x), {1, 1}).tanh_().narrow(2, 0, 2).narrow(3, 0, 2);
    return last(torch::softplus(hidden(x.flatten(1)).tanh_() * gain));
  }
  torch::nn::Conv2d conv;
  torch::nn::Linear hidden, last;
  torch::Tensor gain;
};

inline Network mixed_network() {
  const auto module = std::make_shared<Mixed>();
  const torch::NoGradGuard no_grad;
  double rate = 0.7;
  for (auto& parameter : module->parameters()) parameter.copy_(0.7 * waves(parameter.sizes().vec(), rate += 0.4));
  return Network(torch::nn::AnyModule(module), torch::kFloat64);
}

/// d outputs / d weights, [B, outputs, weights of the slots in order], by differences of 1e-5: errs by 1e-10.
inline torch::Tensor jacobian_by_differences(Network& network, const torch::Tensor& inputs,
                                             const std::vector<int>& slots) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor arena = network.values();
  network.bind(arena);
  std::vector<torch::Tensor> columns;
  for (const int slot : slots) {
    const Slot& place = network.layout().slots[static_cast<std::size_t>(slot)];
    for (std::int64_t at = place.offset; at < place.offset + place.count; ++at) {
      double* value = arena.data_ptr<double>() + at;
      const double old = *value;
      *value = old + 1e-5;
      const torch::Tensor above = network.forward(inputs);
      *value = old - 1e-5;
      columns.push_back((above - network.forward(inputs)) / 2e-5);
      *value = old;
    }
  }
  return torch::stack(columns, 2);
}

}  // namespace credence::test
