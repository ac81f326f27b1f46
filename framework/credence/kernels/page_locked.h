#pragma once

#include <memory>
#include <memory_resource>

namespace credence::kernels {

/// Host memory that a CUDA device copies from without a detour and while the host goes on; every block is asked of the
/// system, so blocks are to be large and few. Safe from several threads. Allocation throws UserError where the host
/// cannot lock so much. UserError in a build without CUDA.
std::unique_ptr<std::pmr::memory_resource> page_locked_memory(int device);

}  // namespace credence::kernels
