#include <gtest/gtest.h>

#include "credence/base/errors.h"
#include "credence/kernels/cuda_identity.h"
#include "credence/kernels/kernel_set.h"

namespace credence::kernels {
namespace {

TEST(CudaUnavailable, IsAUserError) {
  EXPECT_FALSE(cuda_available());
  EXPECT_THROW(cuda_kernels(nullptr), UserError);
  EXPECT_EQ(cuda_identity(0), "");
}

}  // namespace
}  // namespace credence::kernels
