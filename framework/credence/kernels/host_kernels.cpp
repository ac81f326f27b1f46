#include "credence/kernels/host_kernels.h"

#include <omp.h>

#include <algorithm>

#include "credence/base/errors.h"

namespace credence::kernels {

namespace {

/// Waking the threads costs some microseconds: as much as about so many blocks.
constexpr std::int64_t kSerialBlocks = 8;

/// Calls visit(block) for every block, each once; contiguous shares, one parallel region. visit must not throw.
template <class Visit>
void for_blocks(const BlockPlan& plan, int threads, const Visit& visit) {
  const std::int64_t blocks = plan.size();
  const auto share = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) visit(plan.at(index));
  };
  if (threads == 1 || blocks <= kSerialBlocks) {
    share(0, blocks);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t team = omp_get_num_threads();
    const std::int64_t member = omp_get_thread_num();
    share(blocks * member / team, blocks * (member + 1) / team);
  }
}

/// Advances a pointer that may be null.
template <class P>
P* at(P* pointer, std::int64_t element) {
  return pointer == nullptr ? nullptr : pointer + element;
}

template <class T>
constexpr T kNoGradient[kBlock] = {};

template <class T>
class HostKernels final : public KernelSet<T> {
 public:
  HostKernels(std::string_view name, const BlockFunctions<T>& functions, int threads)
      : name_(name), functions_(functions), threads_(threads) {
    require(threads >= 1, "{} threads were asked for; at least 1 is needed.", threads);
  }

  std::string_view name() const override { return name_; }

  void draw(std::span<const Segment> segments, const T* mean, const T* raw_scale, const NoiseStream& noise,
            T* weights) override {
    noise.key();  // refuses a bad seed here, outside the threads
    for_blocks(BlockPlan(segments), threads_, [&](const Block& block) {
      functions_.draw({segments[block.segment].gaussian, block.element, block.count, mean + block.element,
                       at(raw_scale, block.element), &noise, weights + block.element});
    });
  }

  void accumulate(const Segment& segment, const T* gradient, const NoiseStream& noise, bool accumulate, T* sum,
                  T* scaled_sum) override {
    noise.key();
    T* const scaled = segment.gaussian ? scaled_sum : nullptr;
    for_blocks(BlockPlan({&segment, 1}), threads_, [&](const Block& block) {
      functions_.accumulate({accumulate, block.element, block.count, gradient + block.begin, &noise,
                             sum + block.element, at(scaled, block.element)});
    });
  }

  void add(const Segment& segment, const T* other, T* sum) override {
    for_blocks(BlockPlan({&segment, 1}), threads_,
               [&](const Block& block) { functions_.add(block.count, other + block.element, sum + block.element); });
  }

  std::vector<SegmentSums> update(std::span<const Segment> segments, const UpdateRule& rule,
                                  const UpdateArrays<T>& arrays) override {
    return run(segments, rule, arrays, true);
  }

  std::vector<SegmentSums> measure(std::span<const Segment> segments, const UpdateRule& rule,
                                   const UpdateArrays<T>& arrays) override {
    return run(segments, rule, arrays, false);
  }

  void scales(std::span<const Segment> segments, const T* raw_scale, T* scale) override {
    for_blocks(BlockPlan(segments), threads_, [&](const Block& block) {
      if (!segments[block.segment].gaussian) return;
      functions_.scales(block.count, raw_scale + block.element, scale + block.element);
    });
  }

 private:
  std::vector<SegmentSums> run(std::span<const Segment> segments, const UpdateRule& rule, const UpdateArrays<T>& arrays,
                               bool write) {
    check_arrays(segments, rule, arrays, write);
    if (arrays.noise != nullptr) arrays.noise->key();
    if (write && arrays.next_noise != nullptr) arrays.next_noise->key();
    const StepConstants<T> step = step_constants<T>(rule);
    const std::vector<SegmentConstants<T>> constants = all_segment_constants<T>(segments, rule);

    const BlockPlan plan(segments);
    std::vector<SegmentSums> sums(static_cast<std::size_t>(plan.size()));
    for_blocks(plan, threads_, [&](const Block& block) {
      const std::int64_t e = block.element;
      const T* gradient = arrays.gradients.empty() ? nullptr : arrays.gradients[block.segment];
      const T* scaled = at(arrays.scaled_gradient, e);
      if (gradient == nullptr) {
        gradient = kNoGradient<T>;
        if (scaled == nullptr) scaled = kNoGradient<T>;
      } else {
        gradient += block.begin;
      }
      sums[static_cast<std::size_t>(block.index)] = functions_.update(
          {segments[block.segment].gaussian, write, rule.rule, e, block.count, step, constants[block.segment],
           at(arrays.mean, e), at(arrays.raw_scale, e), at(arrays.mean_first, e), at(arrays.mean_second, e),
           at(arrays.scale_first, e), at(arrays.scale_second, e), gradient, scaled, arrays.noise,
           write ? at(arrays.next_weights, e) : nullptr, arrays.next_noise});
    });
    return plan.combine(sums);
  }

  std::string_view name_;
  BlockFunctions<T> functions_;
  int threads_;
};

}  // namespace

template <class T>
std::unique_ptr<KernelSet<T>> host_kernels(std::string_view name, const BlockFunctions<T>& functions, int threads) {
  return std::make_unique<HostKernels<T>>(name, functions, threads);
}

template <class T>
std::unique_ptr<KernelSet<T>> reference_kernels(int threads) {
  return host_kernels<T>("reference", reference_functions<T>(), threads);
}

template <>
std::unique_ptr<KernelSet<float>> simd_kernels(int threads) {
  const BlockFunctions<float> functions = simd_functions();
  if (functions.update == nullptr) return reference_kernels<float>(threads);
  return host_kernels<float>("simd", functions, threads);
}

template <>
std::unique_ptr<KernelSet<double>> simd_kernels(int threads) {
  return reference_kernels<double>(threads);
}

template std::unique_ptr<KernelSet<float>> reference_kernels(int);
template std::unique_ptr<KernelSet<double>> reference_kernels(int);

}  // namespace credence::kernels
