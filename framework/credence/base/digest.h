#pragma once

#include <xxhash.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace credence {

/// XXH3-128 in its canonical (big-endian) bytes, the order in which its hexadecimal form is written.
using Digest = std::array<std::uint8_t, 16>;

Digest digest_of(std::span<const std::byte> bytes);
/// 32 lower-case hexadecimal digits, as `xxhsum -H2` prints them.
std::string hexadecimal(const Digest& digest);

/// The digest of bytes that arrive in pieces.
class Hasher {
 public:
  Hasher();
  void update(std::span<const std::byte> bytes);
  Digest digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace credence
