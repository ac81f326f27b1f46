#include "credence/data/digest.h"

#include <xxhash.h>

#include <new>
#include <vector>

#include "credence/base/errors.h"

namespace credence {

ContentDigest::ContentDigest(const ExampleSpec& spec, std::int64_t examples) : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_);
  std::vector<std::int64_t> shape = spec.input_shape;
  shape.insert(shape.end(), {spec.classes, spec.target_size, examples});
  add(std::span<const std::int64_t>(shape));
}

ContentDigest::~ContentDigest() {
  XXH3_freeState(state_);
}

void ContentDigest::add_bytes(const void* data, std::size_t bytes) {
  XXH3_128bits_update(state_, data, bytes);
}

std::string ContentDigest::hexadecimal() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace credence
