#pragma once

#include <string>

namespace credence::kernels {

/// What tells a CUDA device from the others of its host, under whatever number a process sees it: its place on the PCI
/// bus, by which NCCL knows devices too. Slices of one device (MIG) have the same. Empty in a build without CUDA.
std::string cuda_identity(int device);

}  // namespace credence::kernels
