// The CUDA kernels against the bandwidth of a device-to-device copy. Registers nothing where no device is present.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <random>
#include <stdexcept>

#include "workload.h"

namespace credence::experiments {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// `copies` of the arena of mlp_segments(), as one arena on the device: too large for its caches.
class DeviceArrays {
 public:
  explicit DeviceArrays(int copies) {
    const std::vector<kernels::Segment> one = mlp_segments();
    for (int c = 0; c < copies; ++c) {
      for (kernels::Segment segment : one) {
        segment.offset += c * arena_size(one);
        segments.push_back(segment);
      }
    }
    elements = element_count(segments);
    size = static_cast<std::size_t>(arena_size(segments));
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 1e-3f);
    std::vector<float> values(size);
    for (float& value : values) value = normal(generator);
    for (float** array : {&mean, &gradient}) *array = upload(values);
    raw_scale = upload(std::vector<float>(size, -5.0f));
    for (float** array : {&weights, &sum, &scaled, &mean_first, &mean_second, &scale_first, &scale_second}) {
      *array = upload(std::vector<float>(size));
    }
    for (const kernels::Segment& segment : segments) gradients.push_back(gradient + segment.offset);
  }
  ~DeviceArrays() {
    for (float* pointer : owned_) cudaFree(pointer);
  }
  DeviceArrays(const DeviceArrays&) = delete;
  DeviceArrays& operator=(const DeviceArrays&) = delete;

  std::vector<kernels::Segment> segments;
  std::int64_t elements = 0;
  std::size_t size = 0;
  float *mean, *raw_scale, *gradient, *weights, *sum, *scaled, *mean_first, *mean_second, *scale_first, *scale_second;
  std::vector<const float*> gradients;
  kernels::NoiseStream noise{.seed = 1, .step = 1}, next_noise{.seed = 1, .step = 2};

 private:
  float* upload(const std::vector<float>& values) {
    float* pointer = nullptr;
    check(cudaMalloc(reinterpret_cast<void**>(&pointer), values.size() * sizeof(float)));
    owned_.push_back(pointer);
    check(cudaMemcpy(pointer, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
    return pointer;
  }

  std::vector<float*> owned_;
};

/// Seconds of work enqueued on the default stream, by events.
class Timer {
 public:
  Timer() {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  double seconds(const std::function<void()>& work) {
    check(cudaEventRecord(begin_));
    work();
    check(cudaEventRecord(end_));
    check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

double copy_bandwidth(DeviceArrays& a, Timer& timer) {
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    const double seconds = timer.seconds(
        [&] { check(cudaMemcpyAsync(a.weights, a.mean, a.size * sizeof(float), cudaMemcpyDeviceToDevice)); });
    best = std::max(best, 8.0 * static_cast<double>(a.size) / seconds);
  }
  return best;
}

using Work = std::function<void(kernels::KernelSet<float>&, DeviceArrays&)>;

void run(benchmark::State& state, double bytes_per_element, const Work& work) {
  static DeviceArrays a(10);
  static Timer timer;
  static const double copy = copy_bandwidth(a, timer);
  const auto kernels = kernels::cuda_kernels(nullptr);
  work(*kernels, a);
  for (auto _ : state) state.SetIterationTime(timer.seconds([&] { work(*kernels, a); }));
  using benchmark::Counter;
  const double bytes = bytes_per_element * static_cast<double>(a.elements) * static_cast<double>(state.iterations());
  state.counters["bytes"] = Counter(bytes, Counter::kIsRate);
  state.counters["of_copy"] = Counter(bytes / copy, Counter::kIsRate);
}

void update(kernels::KernelSet<float>& kernels, DeviceArrays& a, bool next) {
  kernels.update(a.segments, adam_rule(100),
                 {a.mean, a.raw_scale, a.mean_first, a.mean_second, a.scale_first, a.scale_second, a.gradients, nullptr,
                  &a.noise, next ? a.weights : nullptr, next ? &a.next_noise : nullptr});
}

void add_benchmark(const char* name, double bytes_per_element, Work work) {
  benchmark::RegisterBenchmark(name, [bytes_per_element, work = std::move(work)](benchmark::State& state) {
    run(state, bytes_per_element, work);
  })->UseManualTime();
}

const bool kRegistered = [] {
  if (!kernels::cuda_available()) return false;
  add_benchmark("cuda_draw", kDrawBytes,
                [](auto& k, DeviceArrays& a) { k.draw(a.segments, a.mean, a.raw_scale, a.noise, a.weights); });
  add_benchmark("cuda_accumulate", kAccumulateBytes, [](auto& k, DeviceArrays& a) {
    const kernels::Segment all{.count = static_cast<std::int64_t>(a.size)};
    k.accumulate(all, a.gradient, a.noise, true, a.sum, a.scaled);
  });
  add_benchmark("cuda_update", kUpdateBytes, [](auto& k, DeviceArrays& a) { update(k, a, false); });
  add_benchmark("cuda_update_and_draw", kUpdateDrawBytes, [](auto& k, DeviceArrays& a) { update(k, a, true); });
  return true;
}();

}  // namespace
}  // namespace credence::experiments
