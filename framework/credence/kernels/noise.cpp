#include "credence/kernels/noise.h"

#include "credence/base/errors.h"
#include "credence/kernels/scalar.h"

namespace credence::kernels {

namespace {

using Math = scalar::FloatMath<scalar::FloatLane>;

constexpr std::int64_t kBlocksPerGroup = kNoiseGroup / 4;

std::uint32_t sign_of(const NoiseStream& stream) {
  return stream.negate ? 0x80000000u : 0u;
}

/// Philox block number l of the group that holds `element`.
Counter block_of_group(const NoiseStream& stream, Key key, std::int64_t element, std::int64_t l) {
  const auto block = static_cast<std::uint32_t>(element / kNoiseGroup * kBlocksPerGroup + l);
  return philox4x32_10({block, stream.step, stream.shard, stream.sample}, key);
}

}  // namespace

Counter philox4x32_10(Counter counter, Key key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

Key NoiseStream::key() const {
  require(seed < (std::uint64_t{1} << 56), "The seed {} is too large; seeds are below 2^56.", seed);
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32) | static_cast<std::uint32_t>(purpose)
                                                                                         << 24};
}

std::uint32_t random_word(const NoiseStream& stream, std::int64_t element) {
  const Counter words = block_of_group(stream, stream.key(), element, element % kBlocksPerGroup);
  return words[static_cast<std::size_t>(element % kNoiseGroup / kBlocksPerGroup)];
}

void random_words(const NoiseStream& stream, std::span<std::uint32_t> words) {
  const Key key = stream.key();
  for (std::size_t group = 0; group < words.size(); group += kNoiseGroup) {
    for (std::size_t l = 0; l < kBlocksPerGroup; ++l) {
      const Counter block = block_of_group(stream, key, static_cast<std::int64_t>(group), static_cast<std::int64_t>(l));
      for (std::size_t w = 0; w < block.size(); ++w) {
        const std::size_t element = group + w * kBlocksPerGroup + l;
        if (element < words.size()) words[element] = block[w];
      }
    }
  }
}

float standard_normal(const NoiseStream& stream, std::int64_t element) {
  const Counter words = block_of_group(stream, stream.key(), element, element % kBlocksPerGroup);
  const auto word = static_cast<std::size_t>(element % kNoiseGroup / kBlocksPerGroup);
  const std::size_t pair = word & ~std::size_t{1};
  float normals[2];
  Math::box_muller(words[pair], words[pair + 1], sign_of(stream), normals[0], normals[1]);
  return normals[word - pair];
}

void scalar::normals_of_group(const NoiseStream& stream, std::int64_t element, float (&normals)[kNoiseGroup]) {
  const Key key = stream.key();
  const std::uint32_t sign = sign_of(stream);
  for (std::int64_t l = 0; l < kBlocksPerGroup; ++l) {
    const Counter words = block_of_group(stream, key, element, l);
    Math::box_muller(words[0], words[1], sign, normals[l], normals[kBlocksPerGroup + l]);
    Math::box_muller(words[2], words[3], sign, normals[2 * kBlocksPerGroup + l], normals[3 * kBlocksPerGroup + l]);
  }
}

}  // namespace credence::kernels
