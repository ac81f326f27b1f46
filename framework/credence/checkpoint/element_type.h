#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace credence {

/// Types of the elements that state dicts hold.
enum class ElementType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  other  // of known size: what such a tensor holds is not read
};

namespace checkpoints {

/// Little-endian elements as doubles; exact but for integers beyond 2^53. `type` is not `other`, and `bytes` has so
/// many elements as `values`.
void to_doubles(ElementType type, std::span<const std::byte> bytes, std::span<double> values);

}  // namespace checkpoints
}  // namespace credence
