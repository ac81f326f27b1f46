#include "credence/checkpoint/element_type.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace credence::checkpoints {
namespace {

float from_half(std::uint16_t half) {
  const int exponent = half >> 10 & 0x1f;
  const int fraction = half & 0x3ff;
  float value = 0.0F;
  if (exponent == 0x1f) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(fraction | 0x400), exponent - 25);
  }
  return (half & 0x8000) != 0 ? -value : value;
}

float from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

template <class Stored, class Convert>
void convert(std::span<const std::byte> bytes, std::span<double> values, Convert&& to_number) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = static_cast<double>(to_number(stored));
  }
}

}  // namespace

void to_doubles(ElementType type, std::span<const std::byte> bytes, std::span<double> values) {
  switch (type) {
    case ElementType::f64:
      return convert<double>(bytes, values, [](double x) { return x; });
    case ElementType::f32:
      return convert<float>(bytes, values, [](float x) { return x; });
    case ElementType::f16:
      return convert<std::uint16_t>(bytes, values, from_half);
    case ElementType::bf16:
      return convert<std::uint16_t>(bytes, values, from_bfloat16);
    case ElementType::i64:
      return convert<std::int64_t>(bytes, values, [](std::int64_t x) { return x; });
    case ElementType::other:
      break;
  }
}

}  // namespace credence::checkpoints
