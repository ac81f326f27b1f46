#pragma once

#include <c10/core/Allocator.h>

#include <cstdint>

namespace credence {

/// Of this process, as the kernel counts.
std::int64_t resident_bytes();
/// The most that was ever resident.
std::int64_t peak_resident_bytes();
/// What the kernel thinks that processes may still ask for.
std::int64_t available_bytes();
/// The most that tensors ever took of the device; 0 without one.
std::int64_t peak_device_bytes(c10::Device device);

/// Counts what LibTorch gives out of one kind of device's memory on this thread while a c10::DebugInfoGuard of
/// DebugInfoKind::PROFILER_STATE holds it.
class TensorMeter : public c10::MemoryReportingInfoBase {
 public:
  explicit TensorMeter(c10::DeviceType counted) : counted_(counted) {}
  void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device device) override {
    if (device.type() != counted_) return;
    live_ += size;
    if (live_ > peak_) peak_ = live_;
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t live() const { return live_; }
  std::int64_t peak() const { return peak_; }

 private:
  c10::DeviceType counted_;
  std::int64_t live_ = 0, peak_ = 0;
};

}  // namespace credence
