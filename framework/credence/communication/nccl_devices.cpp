#include "credence/communication/nccl_devices.h"

#include <fmt/core.h>

#include <cstddef>
#include <map>
#include <utility>

namespace credence {

std::string obstacle_to_nccl(const std::vector<RankDevice>& devices) {
  std::map<std::pair<std::string, std::string>, std::size_t> owners;
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const auto& [host, identity] = devices[rank];
    if (identity.empty()) return fmt::format("rank {} on {} has no CUDA device", rank, host);
    const auto [owner, is_first] = owners.try_emplace({host, identity}, rank);
    if (is_first) continue;
    return fmt::format("ranks {} and {} share the CUDA device {} of {}", owner->second, rank, identity, host);
  }
  return {};
}

}  // namespace credence
