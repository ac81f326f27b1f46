// CUDA against the reference, bit for bit. Skipped, with one line, where no device is present.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "arena_agreement.h"

namespace credence::kernels::test {
namespace {

class DeviceMemory final : public Memory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&&) = default;
  ~DeviceMemory() override {
    for (float* pointer : pointers_) cudaFree(pointer);
  }
  float* upload(const std::vector<float>& values) override {
    float* pointer = nullptr;
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&pointer), values.size() * sizeof(float)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(pointer, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice), cudaSuccess);
    pointers_.push_back(pointer);
    return pointer;
  }
  void download(const float* from, std::vector<float>& values) override {
    EXPECT_EQ(cudaMemcpy(values.data(), from, values.size() * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
  }

 private:
  std::vector<float*> pointers_;
};

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no CUDA device is present";
    kernels_ = cuda_kernels(nullptr);
  }
  std::unique_ptr<Kernels> kernels_;
};

TEST_F(Cuda, Draw) {
  compare_draw(*kernels_, "cuda", DeviceMemory());
}
TEST_F(Cuda, Scales) {
  compare_scales(*kernels_, "cuda", DeviceMemory());
}
TEST_F(Cuda, AccumulateAndAdd) {
  compare_accumulate(*kernels_, "cuda", DeviceMemory());
}
TEST_F(Cuda, Update) {
  compare_updates(*kernels_, "cuda", DeviceMemory());
}
TEST_F(Cuda, RunsOfUpdates) {
  compare_runs_of_updates(*kernels_, "cuda", DeviceMemory());
}
TEST_F(Cuda, Measure) {
  compare_measure(*kernels_, "cuda", DeviceMemory());
}

TEST_F(Cuda, ManyBlocks) {
  // Many thread blocks at once, and noise over millions of elements.
  const std::vector<std::int64_t> counts = {3'000'001, 77, 2'000'000};
  Arena<float> arena(counts);
  DeviceMemory memory;
  UpdateArrays<float> arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  arrays.next_noise = &kNextNoise;
  arrays.next_weights = arena.weights.data();
  const Copy copy(arena, arrays, memory);
  const auto expected = simd_kernels<float>(2)->update(arena.segments, example_rule(Rule::adam), arrays);
  expect_same_bits(kernels_->update(arena.segments, example_rule(Rule::adam), copy.arrays), expected, "cuda");
  copy.expect_same(arena, memory, "cuda");
}

}  // namespace
}  // namespace credence::kernels::test
