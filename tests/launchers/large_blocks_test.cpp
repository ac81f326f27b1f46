// The memory of large tensors: never given to two at once, taken again, counted, and not a way round a child's limits.
#include "large_blocks.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/limited_child.h"
#include "memory.h"

namespace credence {
namespace {

constexpr std::int64_t kMega = std::int64_t{1} << 20;

class LargeBlocksTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { keep_large_tensors(); }

  static torch::Tensor bytes(std::int64_t count) { return torch::empty({count}, torch::kUInt8); }
};

TEST_F(LargeBlocksTest, WhatIsFreedIsTakenAgainAndNeighboursAreJoined) {
  for (const bool first_first : {true, false}) {
    torch::Tensor a = bytes(4 * kMega), b = bytes(4 * kMega);
    const torch::Tensor after = bytes(4 * kMega);
    auto* const first = a.data_ptr<std::uint8_t>();
    EXPECT_NE(b.data_ptr<std::uint8_t>() - first, 4 * kMega) << "arrays side by side begin at the same place of a page";
    EXPECT_LT(b.data_ptr<std::uint8_t>() - first, 4 * kMega + 4096);
    a = torch::Tensor();
    a = bytes(4 * kMega);
    EXPECT_EQ(a.data_ptr<std::uint8_t>(), first);
    (first_first ? a : b) = torch::Tensor();
    (first_first ? b : a) = torch::Tensor();
    const torch::Tensor both = bytes(8 * kMega);
    EXPECT_EQ(both.data_ptr<std::uint8_t>(), first);
  }
}

TEST_F(LargeBlocksTest, NoTwoTensorsOverlapOnAnyThread) {
  const auto work = [](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::pair<torch::Tensor, std::uint8_t>> live;
    for (int i = 0; i < 400; ++i) {
      if (live.size() < 12 && random() % 3 != 0) {
        const auto mark = static_cast<std::uint8_t>(random());
        live.emplace_back(bytes(static_cast<std::int64_t>(random() % (4 * kMega)) + kMega / 2), mark);
        live.back().first.fill_(mark);
      } else if (!live.empty()) {
        const std::size_t victim = random() % live.size();
        EXPECT_TRUE(live[victim].first.eq(live[victim].second).all().item<bool>());
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(victim));
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LargeBlocksTest, MoreThanARegionAndRawMemoryOfAnySize) {
  const torch::Tensor huge = bytes(5000 * kMega);  // addresses only: nothing is written
  EXPECT_NE(huge.data_ptr(), nullptr);
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, std::size_t{3} << 20}) {
    void* const memory = c10::GetCPUAllocator()->raw_allocate(size);
    c10::GetCPUAllocator()->raw_deallocate(memory);
  }
}

TEST_F(LargeBlocksTest, CountsAsLibTorchCounts) {
  const auto meter = std::make_shared<TensorMeter>(c10::DeviceType::CPU);
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  {
    const torch::Tensor small = bytes(1000), large = bytes(3 * kMega + 5);
    EXPECT_EQ(meter->live(), 3 * kMega + 5 + 1000);
  }
  EXPECT_EQ(meter->live(), 0);
  EXPECT_EQ(meter->peak(), 3 * kMega + 5 + 1000);
}

TEST_F(LargeBlocksTest, AChildTakesNothingFromTheRegions) {
  torch::Tensor freed_in_child = bytes(2 * kMega).fill_(7);
  ChildLimits limits;
  limits.memory_bytes = std::size_t{64} << 20;
  const auto child = [&](std::int64_t size) {
    return run_in_limited_child(
        "a file",
        [&] {
          freed_in_child = torch::Tensor();
          const torch::Tensor taken = bytes(size);
          std::memset(taken.data_ptr(), 1, static_cast<std::size_t>(size));  // LibTorch's threads are the parent's
          return std::to_string(taken.numel());
        },
        limits);
  };
  EXPECT_EQ(child(2 * kMega), std::to_string(2 * kMega));
  EXPECT_THROW(child(200 * kMega), DataError);
  EXPECT_TRUE(freed_in_child.eq(7).all().item<bool>());
}

}  // namespace
}  // namespace credence
