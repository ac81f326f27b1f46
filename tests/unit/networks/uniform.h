// The numbers with which the scripts of tests/references/networks fill weights and images.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>

namespace credence::test {

/// As torchvision_networks.py: numbers in [-1/2, 1/2) by name and index.
inline torch::Tensor uniform(const std::string& name, std::int64_t count) {
  std::uint32_t start = 2166136261U;
  for (const char letter : name) start = (start ^ static_cast<unsigned char>(letter)) * 16777619U;
  torch::Tensor values = torch::empty({count}, torch::kFloat64);
  double* const value = values.data_ptr<double>();
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761U + start;
    for (int round = 0; round < 2; ++round) h = (h ^ h >> 16) * 0x45D9F3BU;
    value[i] = static_cast<double>(h ^ h >> 16) / 0x1p32 - 0.5;
  }
  return values;
}

}  // namespace credence::test
