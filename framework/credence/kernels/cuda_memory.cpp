#include <cuda_runtime_api.h>

#include "credence/base/errors.h"
#include "credence/kernels/page_locked.h"

namespace credence::kernels {
namespace {

class PageLockedMemory final : public std::pmr::memory_resource {
 public:
  explicit PageLockedMemory(int device) : device_(device) {}

 private:
  void* do_allocate(std::size_t bytes, std::size_t /*alignment*/) override {  // CUDA's blocks begin at pages
    void* memory = nullptr;
    // A thread that has not chosen a device would make a context on the first one.
    cudaError_t status = cudaSetDevice(device_);
    if (status == cudaSuccess) status = cudaMallocHost(&memory, bytes);
    if (status != cudaSuccess) {
      throw UserError(
          fmt::format("CUDA cannot lock {} bytes of host memory for a batch: {}; a smaller --batch needs less", bytes,
                      cudaGetErrorString(status)));
    }
    return memory;
  }

  void do_deallocate(void* memory, std::size_t /*bytes*/, std::size_t /*alignment*/) override { cudaFreeHost(memory); }

  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  int device_;
};

}  // namespace

std::unique_ptr<std::pmr::memory_resource> page_locked_memory(int device) {
  return std::make_unique<PageLockedMemory>(device);
}

}  // namespace credence::kernels
