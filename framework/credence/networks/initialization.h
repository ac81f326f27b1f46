#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace credence {

/// The nonlinearity that follows the layers of a network decides the variance that keeps signals alive.
enum class Nonlinearity : std::uint8_t { relu, tanh, linear };

/// Initial weights of every Linear and Conv2d layer, biases zero, norm layers one and zero:
///   relu    N(0, 2 / fan_in)           He et al. 2015
///   tanh    N(0, (5/3)^2 / fan_in)     gain of tanh near zero
///   linear  N(0, 1 / fan_in)           LeCun et al. 1998
/// The last Linear layer always takes the linear rule: nothing follows it. Noise is a function of (seed, position of the
/// tensor in the module), not of LibTorch's generator.
void initialize(torch::nn::Module& module, Nonlinearity nonlinearity, std::uint64_t seed);

}  // namespace credence
