#include "credence/communication/nccl_devices.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

namespace credence {
namespace {

TEST(NcclDevices, TwoRanksOnOneDeviceShareIt) {
  EXPECT_EQ(obstacle_to_nccl({{"a", "0000:17:00.0"}, {"a", "0000:17:00.0"}}),
            "ranks 0 and 1 share the CUDA device 0000:17:00.0 of a");
  EXPECT_EQ(obstacle_to_nccl({{"a", "17"}, {"a", "65"}, {"b", "17"}, {"a", "65"}}),
            "ranks 1 and 3 share the CUDA device 65 of a");
}

/// As Slurm deals them by --gpus-per-task=1: each rank sees one device, which all call device 0.
TEST(NcclDevices, EightRanksWithADeviceEachMayUseNccl) {
  std::vector<RankDevice> devices;
  for (int rank = 0; rank < 8; ++rank) devices.push_back({"node", fmt::format("0000:{:02x}:00.0", 16 + rank)});
  EXPECT_EQ(obstacle_to_nccl(devices), "");
}

TEST(NcclDevices, IdentitiesAreComparedWhole) {
  EXPECT_EQ(obstacle_to_nccl({{"a", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"},
                              {"a", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"},
                              {"a", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9be"}}),
            "");
}

TEST(NcclDevices, EqualIdentitiesOnTwoHostsAreTwoDevices) {
  EXPECT_EQ(obstacle_to_nccl({{"a", "0000:17:00.0"}, {"b", "0000:17:00.0"}}), "");
  // Neither does one text continue the other.
  EXPECT_EQ(obstacle_to_nccl({{"a", "b0"}, {"ab", "0"}}), "");
}

TEST(NcclDevices, EveryRankNeedsADevice) {
  EXPECT_EQ(obstacle_to_nccl({{"a", "17"}, {"b", ""}}), "rank 1 on b has no CUDA device");
  EXPECT_EQ(obstacle_to_nccl({{"a", "17"}}), "");
}

}  // namespace
}  // namespace credence
