#include "credence/kernels/host_kernels.h"

namespace credence::kernels {

BlockFunctions<float> simd_functions() {
  return {};
}

}  // namespace credence::kernels
