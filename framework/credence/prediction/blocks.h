#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "credence/communication/communicator.h"

namespace credence {

/// Inputs that a pass keeps in memory: reading them again for every draw would decode images again.
inline constexpr std::int64_t kKeptInputBytes = std::int64_t{256} << 20;

/// A dataset cut into blocks of consecutive examples (the last may be shorter), and the contiguous run of whole blocks
/// that one rank computes. The cut does not depend on the ranks: what a network gives for an example may depend, in the
/// last bits, on the batch it sits in.
struct BlockShare {
  BlockShare(std::int64_t example_count, std::int64_t block_size, const Communicator& communicator);

  std::int64_t examples;                // of the dataset
  std::int64_t block;                   // examples a block
  std::int64_t blocks;                  // of the dataset
  std::int64_t first_block, end_block;  // of this rank; may be none

  std::int64_t begin(std::int64_t index) const { return std::min(index * block, examples); }
  std::int64_t end(std::int64_t index) const { return begin(index + 1); }
  std::int64_t first_row() const { return begin(first_block); }
  std::int64_t rows() const { return begin(end_block) - first_row(); }
};

/// Every rank's values, `total` of them, on every rank. This rank has those from `offset` on; each has exactly one
/// owner, so the sum over ranks changes no bit. Collective.
std::vector<double> gather(Communicator& communicator, std::span<const double> mine, std::int64_t offset,
                           std::int64_t total);

}  // namespace credence
