// KernelSet over the CUDA kernels: device memory for segments and sums, and the launches.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>

#include "credence/base/errors.h"
#include "credence/kernels/cuda_identity.h"
#include "credence/kernels/cuda_launch.h"
#include "credence/kernels/kernel_set.h"
#include "credence/kernels/plan.h"

namespace credence::kernels {

namespace {

cuda::Noise noise_of(const NoiseStream& stream) {
  const Key key = stream.key();
  return {key[0], key[1], stream.step, stream.shard, stream.sample, stream.negate ? 0x80000000u : 0u};
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string message = fmt::format("CUDA failed to {}: {}.", what, cudaGetErrorString(status));
  if (status == cudaErrorMemoryAllocation) throw UserError(message + " The device has too little free memory.");
  throw InternalError(message);
}

/// Memory that only grows; page-locked on the host or on the device.
class Buffer {
 public:
  enum class Place : std::uint8_t { host, device };

  explicit Buffer(Place place) : place_(place) {}
  ~Buffer() { release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  /// Contents are lost where the memory grows; work that uses it must have finished or be ordered before.
  void* at_least(std::size_t bytes) {
    if (bytes <= bytes_) return memory_;
    release();
    bytes += bytes / 2;
    check(place_ == Place::host ? cudaMallocHost(&memory_, bytes) : cudaMalloc(&memory_, bytes), "allocate memory");
    bytes_ = bytes;
    return memory_;
  }

 private:
  void release() {
    if (memory_ != nullptr) place_ == Place::host ? cudaFreeHost(memory_) : cudaFree(memory_);
    memory_ = nullptr;
    bytes_ = 0;
  }

  Place place_;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The segments of one kind of call in device memory; copied only when they change.
class DeviceTable {
 public:
  /// `gradients` may be empty.
  cuda::SegmentTable upload(const BlockPlan& plan, const UpdateRule& rule, std::span<const float* const> gradients,
                            cudaStream_t stream) {
    const std::size_t segments = plan.segments().size();
    const std::size_t segment_bytes = segments * sizeof(cuda::DeviceSegment);
    std::vector<std::byte> bytes(segment_bytes + plan.first_blocks().size_bytes());
    const auto constants = all_segment_constants<float>(plan.segments(), rule);
    static_assert(sizeof(SegmentConstants<float>) == 5 * sizeof(float));  // no padding of its own
    for (std::size_t s = 0; s < segments; ++s) {
      const Segment& segment = plan.segments()[s];
      cuda::DeviceSegment entry;
      std::memset(&entry, 0, sizeof(entry));  // padding too: the bytes are compared
      entry.offset = segment.offset;
      entry.count = segment.count;
      entry.gradient = gradients.empty() ? nullptr : gradients[s];
      entry.constants = constants[s];
      entry.gaussian = segment.gaussian;
      std::memcpy(bytes.data() + s * sizeof(cuda::DeviceSegment), &entry, sizeof(entry));
    }
    std::memcpy(bytes.data() + segment_bytes, plan.first_blocks().data(), plan.first_blocks().size_bytes());
    auto* const device = static_cast<std::byte*>(buffer_.at_least(bytes.size()));
    if (bytes != uploaded_) {  // memory that has just grown holds more bytes than were uploaded before
      // From pageable memory: the call returns when the source may be reused.
      check(cudaMemcpyAsync(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream), "copy segments");
      uploaded_ = std::move(bytes);
    }
    return {reinterpret_cast<const cuda::DeviceSegment*>(device),
            reinterpret_cast<const std::int64_t*>(device + segment_bytes), static_cast<int>(segments)};
  }

 private:
  Buffer buffer_{Buffer::Place::device};
  std::vector<std::byte> uploaded_;
};

class CudaKernels final : public KernelSet<float> {
 public:
  explicit CudaKernels(cudaStream_t stream) : stream_(stream) {}

  std::string_view name() const override { return "cuda"; }

  void draw(std::span<const Segment> segments, const float* mean, const float* raw_scale, const NoiseStream& noise,
            float* weights) override {
    const BlockPlan plan(segments);
    const cuda::Noise device_noise = noise_of(noise);
    if (plan.size() == 0) return;
    const cuda::SegmentTable table = draw_table_.upload(plan, UpdateRule(), {}, stream_);
    check(cuda::launch_draw(grid(plan), stream_, table, mean, raw_scale, device_noise, weights),
          "start the kernel of a draw");
  }

  void accumulate(const Segment& segment, const float* gradient, const NoiseStream& noise, bool accumulate, float* sum,
                  float* scaled_sum) override {
    const BlockPlan plan({&segment, 1});
    const cuda::Noise device_noise = noise_of(noise);
    if (plan.size() == 0) return;
    check(cuda::launch_accumulate(grid(plan), stream_, segment, gradient, device_noise, accumulate, sum,
                                  segment.gaussian ? scaled_sum : nullptr),
          "start the kernel that accumulates gradients");
  }

  void add(const Segment& segment, const float* other, float* sum) override {
    const BlockPlan plan({&segment, 1});
    if (plan.size() == 0) return;
    check(cuda::launch_add(grid(plan), stream_, segment.count, other + segment.offset, sum + segment.offset),
          "start the kernel that adds gradients");
  }

  std::vector<SegmentSums> update(std::span<const Segment> segments, const UpdateRule& rule,
                                  const UpdateArrays<float>& arrays) override {
    return run(segments, rule, arrays, true);
  }

  std::vector<SegmentSums> measure(std::span<const Segment> segments, const UpdateRule& rule,
                                   const UpdateArrays<float>& arrays) override {
    return run(segments, rule, arrays, false);
  }

  void scales(std::span<const Segment> segments, const float* raw_scale, float* scale) override {
    const BlockPlan plan(segments);
    if (plan.size() == 0) return;
    const cuda::SegmentTable table = draw_table_.upload(plan, UpdateRule(), {}, stream_);
    check(cuda::launch_scales(grid(plan), stream_, table, raw_scale, scale), "start the kernel of the scales");
  }

 private:
  static unsigned grid(const BlockPlan& plan) { return static_cast<unsigned>(plan.size()); }

  std::vector<SegmentSums> run(std::span<const Segment> segments, const UpdateRule& rule,
                               const UpdateArrays<float>& arrays, bool write) {
    static_assert(sizeof(SegmentSums) == cuda::kSums * sizeof(double) && std::is_trivially_copyable_v<SegmentSums>);
    check_arrays(segments, rule, arrays, write);
    const BlockPlan plan(segments);
    const cuda::Noise noise = arrays.noise == nullptr ? cuda::Noise{} : noise_of(*arrays.noise);
    const bool draws = write && arrays.next_weights != nullptr;
    const cuda::Noise next_noise = draws && arrays.next_noise != nullptr ? noise_of(*arrays.next_noise) : cuda::Noise{};
    if (plan.size() == 0) return std::vector<SegmentSums>(segments.size());
    const cuda::SegmentTable table = update_table_.upload(plan, rule, arrays.gradients, stream_);
    const cuda::UpdateArguments arguments{step_constants<float>(rule),
                                          arrays.mean,
                                          arrays.raw_scale,
                                          arrays.mean_first,
                                          arrays.mean_second,
                                          arrays.scale_first,
                                          arrays.scale_second,
                                          arrays.scaled_gradient,
                                          draws ? arrays.next_weights : nullptr,
                                          noise,
                                          next_noise,
                                          write};
    const auto blocks = static_cast<std::size_t>(plan.size());
    auto* const device_sums = static_cast<double*>(device_sums_.at_least(blocks * sizeof(SegmentSums)));
    auto* const host_sums = static_cast<SegmentSums*>(host_sums_.at_least(blocks * sizeof(SegmentSums)));
    check(cuda::launch_update(grid(plan), stream_, rule.rule, table, arguments, device_sums),
          "start the kernel of the update");
    check(cudaMemcpyAsync(host_sums, device_sums, blocks * sizeof(SegmentSums), cudaMemcpyDeviceToHost, stream_),
          "copy the sums of an update");
    check(cudaStreamSynchronize(stream_), "finish an update");
    return plan.combine({host_sums, blocks});
  }

  cudaStream_t stream_;
  DeviceTable draw_table_, update_table_;
  Buffer device_sums_{Buffer::Place::device}, host_sums_{Buffer::Place::host};
};

}  // namespace

bool cuda_available() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

std::string cuda_identity(int device) {
  char text[32] = {};  // "domain:bus:device.function"
  check(cudaDeviceGetPCIBusId(text, sizeof(text), device), "tell a device's place on the PCI bus");
  return text;
}

std::unique_ptr<KernelSet<float>> cuda_kernels(void* stream) {
  require(cuda_available(), "CUDA kernels were asked for, but no CUDA device is present.");
  return std::make_unique<CudaKernels>(static_cast<cudaStream_t>(stream));
}

}  // namespace credence::kernels
