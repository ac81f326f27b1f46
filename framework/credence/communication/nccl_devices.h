#pragma once

#include <string>
#include <vector>

namespace credence {

/// Where a rank computes.
struct RankDevice {
  std::string host;
  std::string identity;  // of the CUDA device, the same for every process that sees it; empty: none
};

/// NCCL wants a CUDA device of its own for each rank, under whatever number the rank sees it. What is in the way, as
/// the middle of a sentence; empty: nothing. `devices` by rank.
std::string obstacle_to_nccl(const std::vector<RankDevice>& devices);

}  // namespace credence
