#include <gtest/gtest.h>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"

namespace credence::kernels {
namespace {

// Known answers distributed with Random123 (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(NoiseStream, KeyHoldsSeedAndPurpose) {
  const NoiseStream stream{.seed = 0x00AB'CDEF'1234'5678u, .purpose = Purpose::prediction};
  EXPECT_EQ(stream.key(), (Key{0x12345678u, 0x06ABCDEFu}));
}

TEST(NoiseStream, RefusesSeedsFrom2To56) {
  EXPECT_NO_THROW((NoiseStream{.seed = (std::uint64_t{1} << 56) - 1}.key()));
  EXPECT_THROW((NoiseStream{.seed = std::uint64_t{1} << 56}.key()), UserError);
}

TEST(NoiseStream, DealsBlocksInGroupsOf64) {
  const NoiseStream stream{.seed = 42, .purpose = Purpose::data, .step = 3, .shard = 5, .sample = 7};
  for (const std::int64_t group : {std::int64_t{0}, std::int64_t{1}, (std::int64_t{1} << 28) - 1}) {
    for (std::int64_t l = 0; l < 16; ++l) {
      const Counter block = philox4x32_10({static_cast<std::uint32_t>(16 * group + l), 3, 5, 7}, stream.key());
      for (std::int64_t w = 0; w < 4; ++w) {
        EXPECT_EQ(random_word(stream, 64 * group + 16 * w + l), block[static_cast<std::size_t>(w)]);
      }
    }
  }
}

}  // namespace
}  // namespace credence::kernels
