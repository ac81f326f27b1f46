#pragma once

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "credence/networks/layout.h"

namespace credence::priors_cases {

inline Slot slot_of(const std::vector<std::int64_t>& shape, std::int64_t fan_in = 4) {
  Slot slot;
  slot.name = "fc1.weight";
  slot.shape = shape;
  slot.count = 1;
  for (const std::int64_t size : shape) slot.count *= size;
  slot.fan_in = fan_in;
  return slot;
}

inline torch::Tensor tensor_of(const std::vector<double>& values) {
  return torch::tensor(values, torch::kDouble);
}

inline nlohmann::json reference(const std::string& file) {
  std::ifstream stream(CREDENCE_REFERENCES "/priors/" + file);
  return nlohmann::json::parse(stream);
}

/// Expects the gradients of a scalar to be its central differences. With steps h of eps^(1/3) relative to each value
/// both errors, h^2 times the third derivative and eps/h times the value, are near 1e-10 of the scalar's size; 100
/// times that is for derivatives larger than the function.
inline void expect_gradients(const std::function<torch::Tensor(const std::vector<torch::Tensor>&)>& function,
                             std::vector<torch::Tensor> inputs, double smallest_step = 1e-6) {
  for (torch::Tensor& input : inputs) input = input.detach().to(torch::kDouble).clone().requires_grad_();
  const torch::Tensor value = function(inputs);
  ASSERT_EQ(value.scalar_type(), torch::kDouble);
  ASSERT_EQ(value.dim(), 0);
  const auto gradients = torch::autograd::grad({value}, inputs);
  const torch::NoGradGuard no_gradient;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    auto* values = inputs[i].data_ptr<double>();
    const torch::Tensor gradient = gradients[i].contiguous();
    for (std::int64_t j = 0; j < inputs[i].numel(); ++j) {
      const double kept = values[j];
      const double step = std::max(6e-6 * std::abs(kept), smallest_step);
      values[j] = kept + step;
      const double above = function(inputs).item<double>();
      values[j] = kept - step;
      const double below = function(inputs).item<double>();
      values[j] = kept;
      const double expected = (above - below) / (2.0 * step);
      const double rounding = 0x1p-52 * std::abs(value.item<double>()) * 8.0 / step;
      EXPECT_NEAR(gradient.data_ptr<double>()[j], expected, 1e-8 * std::max(1.0, std::abs(expected)) + rounding)
          << "input " << i << ", element " << j << " = " << kept;
    }
  }
}

}  // namespace credence::priors_cases
