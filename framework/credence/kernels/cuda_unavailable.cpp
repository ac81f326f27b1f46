#include "credence/base/errors.h"
#include "credence/kernels/cuda_identity.h"
#include "credence/kernels/kernel_set.h"
#include "credence/kernels/page_locked.h"

namespace credence::kernels {

std::unique_ptr<KernelSet<float>> cuda_kernels(void* /*stream*/) {
  throw UserError("CUDA kernels were asked for, but this build has none; configure with CREDENCE_GPU=ON.");
}

bool cuda_available() {
  return false;
}

std::string cuda_identity(int /*device*/) {
  return {};
}

std::unique_ptr<std::pmr::memory_resource> page_locked_memory(int /*device*/) {
  throw UserError("page-locked memory was asked for, but this build has no CUDA; configure with CREDENCE_GPU=ON.");
}

}  // namespace credence::kernels
