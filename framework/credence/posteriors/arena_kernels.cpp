#include "credence/posteriors/arena_kernels.h"

#include "credence/base/errors.h"

namespace credence {
namespace {

using kernels::KernelSet;
using kernels::NoiseStream;
using kernels::Segment;
using kernels::SegmentSums;
using kernels::UpdateArrays;
using kernels::UpdateRule;

template <class T>
T* data_of(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

template <class T>
std::vector<const T*> pointers_of(const GradientSum& gradient) {
  std::vector<const T*> slots, places;
  slots.reserve(gradient.slots.size());
  for (const torch::Tensor& slot : gradient.slots) slots.push_back(slot.data_ptr<T>());
  if (gradient.places.empty()) return slots;
  places.reserve(gradient.places.size());
  for (const GradientSum::Place& place : gradient.places) places.push_back(slots[place.slot] + place.first);
  return places;
}

/// Calls with the kernel set and a value of its element type.
template <class Variant, class Call>
decltype(auto) dispatch(Variant& variant, Call call) {
  return std::visit([&]<class T>(std::unique_ptr<KernelSet<T>>& set) -> decltype(auto) { return call(*set, T{}); },
                    variant);
}

}  // namespace

ArenaKernels::ArenaKernels(torch::Dtype dtype, torch::Device device, int threads) {
  if (device.is_cuda()) {
    require(dtype == torch::kFloat32, "--precision float64 runs on the CPU only; use --device cpu");
    kernels_ = kernels::cuda_kernels(nullptr);  // LibTorch's current stream is the default one
  } else if (dtype == torch::kFloat64) {
    kernels_ = kernels::simd_kernels<double>(threads);
  } else {
    ensure(dtype == torch::kFloat32, "arenas are float32 or float64");
    kernels_ = kernels::simd_kernels<float>(threads);
  }
}

void ArenaKernels::draw(std::span<const Segment> segments, const torch::Tensor& mean, const torch::Tensor& raw_scale,
                        const NoiseStream& noise, const torch::Tensor& weights) {
  dispatch(kernels_, [&]<class T>(KernelSet<T>& set, T) {
    set.draw(segments, data_of<T>(mean), data_of<T>(raw_scale), noise, data_of<T>(weights));
  });
}

void ArenaKernels::accumulate(const Segment& segment, const torch::Tensor& gradient, const NoiseStream& noise,
                              bool accumulate, const torch::Tensor& sum, const torch::Tensor& scaled_sum) {
  dispatch(kernels_, [&]<class T>(KernelSet<T>& set, T) {
    set.accumulate(segment, data_of<T>(gradient), noise, accumulate, data_of<T>(sum), data_of<T>(scaled_sum));
  });
}

void ArenaKernels::add(const Segment& segment, const torch::Tensor& other, const torch::Tensor& sum) {
  dispatch(kernels_, [&]<class T>(KernelSet<T>& set, T) { set.add(segment, data_of<T>(other), data_of<T>(sum)); });
}

std::vector<SegmentSums> ArenaKernels::update(std::span<const Segment> segments, const UpdateRule& rule,
                                              const torch::Tensor& mean, const torch::Tensor& raw_scale,
                                              const MomentArenas& moments, const GradientSum& gradient,
                                              const torch::Tensor& next_weights, const NoiseStream& next_noise) {
  return dispatch(kernels_, [&]<class T>(KernelSet<T>& set, T) {
    const std::vector<const T*> pointers = pointers_of<T>(gradient);
    const UpdateArrays<T> arrays{.mean = data_of<T>(mean),
                                 .raw_scale = data_of<T>(raw_scale),
                                 .mean_first = data_of<T>(moments.mean_first),
                                 .mean_second = data_of<T>(moments.mean_second),
                                 .scale_first = data_of<T>(moments.scale_first),
                                 .scale_second = data_of<T>(moments.scale_second),
                                 .gradients = pointers,
                                 .scaled_gradient = data_of<T>(gradient.scaled),
                                 .noise = &gradient.noise,
                                 .next_weights = data_of<T>(next_weights),
                                 .next_noise = &next_noise};
    return set.update(segments, rule, arrays);
  });
}

std::vector<SegmentSums> ArenaKernels::measure(std::span<const Segment> segments, const UpdateRule& rule,
                                               const torch::Tensor& mean, const torch::Tensor& raw_scale,
                                               const GradientSum& gradient) {
  return dispatch(kernels_, [&]<class T>(KernelSet<T>& set, T) {
    const std::vector<const T*> pointers = pointers_of<T>(gradient);
    UpdateArrays<T> arrays;
    arrays.mean = data_of<T>(mean);
    arrays.raw_scale = data_of<T>(raw_scale);
    arrays.gradients = pointers;
    arrays.scaled_gradient = data_of<T>(gradient.scaled);
    arrays.noise = &gradient.noise;
    return set.measure(segments, rule, arrays);
  });
}

void ArenaKernels::scales(std::span<const Segment> segments, const torch::Tensor& raw_scale,
                          const torch::Tensor& scale) {
  dispatch(kernels_,
           [&]<class T>(KernelSet<T>& set, T) { set.scales(segments, data_of<T>(raw_scale), data_of<T>(scale)); });
}

std::int64_t ArenaKernels::kept_bytes(std::span<const Segment> segments) const {
  return std::visit([&](const auto& set) { return set->kept_bytes(segments); }, kernels_);
}

}  // namespace credence
