#include "credence/networks/initialization.h"

#include <cmath>

#include "credence/kernels/noise.h"
#include "credence/networks/network.h"

namespace credence {
namespace {

double gain_of(Nonlinearity nonlinearity) {
  switch (nonlinearity) {
    case Nonlinearity::relu:
      return std::sqrt(1.0 / 3.0);
    case Nonlinearity::relu_unnormalized:
      return std::sqrt(2.0);
    case Nonlinearity::tanh:
      return 5.0 / 3.0;
    case Nonlinearity::linear:
      return 1.0;
  }
  return 1.0;
}

void fill_normal(torch::Tensor weight, double stddev, const kernels::NoiseStream& stream) {
  torch::Tensor values = torch::empty(weight.sizes(), torch::kFloat32);
  float* data = values.data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    data[i] = static_cast<float>(stddev) * kernels::standard_normal(stream, i);
  }
  weight.copy_(values);
}

}  // namespace

void initialize(torch::nn::Module& module, Nonlinearity nonlinearity, std::uint64_t seed) {
  const torch::NoGradGuard no_grad;
  const torch::nn::Module* last_linear = nullptr;
  const auto parts = module.modules();
  for (const auto& part : parts) {
    if (part->as<torch::nn::Linear>() != nullptr) last_linear = part.get();
  }
  kernels::NoiseStream stream{.seed = seed, .purpose = kernels::Purpose::initialization};
  for (const auto& part : parts) {
    const bool norm = is_norm_layer(*part);
    for (auto& item : part->named_parameters(/*recurse=*/false)) {
      torch::Tensor& parameter = item.value();
      if (parameter.dim() < 2) {
        parameter.fill_(norm && item.key() == "weight" ? 1.0 : 0.0);
      } else {
        const double fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
        const double gain = part.get() == last_linear ? 1.0 : gain_of(nonlinearity);
        fill_normal(parameter, gain / std::sqrt(fan_in), stream);
      }
      ++stream.shard;  // the position of the tensor
    }
  }
}

}  // namespace credence
