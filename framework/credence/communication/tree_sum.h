#pragma once

#include <cstdint>
#include <span>

#include "credence/communication/communicator.h"

namespace credence {

/// Reduces one contribution per rank, in rank order, in the one fixed order ((0+1)+(2+3))+...; a power of two of them.
/// The result goes to `result`, which may be one of the contributions; all contributions may be overwritten. NaN wins a
/// maximum; int64 sums wrap.
void reduce_in_tree_order(std::span<void* const> contributions, void* result, std::int64_t count, DType dtype,
                          Reduction reduction);

}  // namespace credence
