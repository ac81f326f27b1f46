#include "credence/kernels/host_kernels.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

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

/// The noise of an update's next draw, for the update after it: to read it costs less than to make it again.
template <class T>
class KeptNoise {
 public:
  /// Of kBlock numbers for each block; 0 where there is no noise, or more than kMostBytes of it.
  static std::int64_t bytes(const BlockPlan& plan) {
    static_assert(kBlock * sizeof(T) % kAlignment == 0);
    const auto segments = plan.segments();
    if (std::none_of(segments.begin(), segments.end(), [](const Segment& segment) { return segment.gaussian; }))
      return 0;
    const std::int64_t needed = plan.size() * kBlock * static_cast<std::int64_t>(sizeof(T));
    return needed <= kMostBytes ? needed : 0;
  }

  /// The numbers of a plan's blocks; null where they are not here.
  const T* find(const NoiseStream& stream, const BlockPlan& plan) const {
    const auto same = [](const Segment& a, const Segment& b) {
      return a.offset == b.offset && a.count == b.count && a.gaussian == b.gaussian;
    };
    const auto segments = plan.segments();
    return stream_ == stream && std::equal(segments_.begin(), segments_.end(), segments.begin(), segments.end(), same)
               ? numbers_.get()
               : nullptr;
  }

  /// Where the numbers of another stream may be put; null where none are kept. Forgets whose are here, but what find()
  /// gave for this plan may be read where there are no new ones yet.
  T* make_room(const BlockPlan& plan) {
    const std::int64_t needed = bytes(plan);
    if (needed == 0) return nullptr;
    stream_.reset();
    if (needed > bytes_) {
      numbers_.reset();
      bytes_ = 0;
      numbers_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, static_cast<std::size_t>(needed))));
      if (!numbers_) throw std::bad_alloc();
      bytes_ = needed;
    }
    return numbers_.get();
  }
  void set_stream(const NoiseStream& stream, const BlockPlan& plan) {
    segments_.assign(plan.segments().begin(), plan.segments().end());
    stream_ = stream;
  }

 private:
  static constexpr std::int64_t kMostBytes = std::int64_t{64} << 20;
  static constexpr std::size_t kAlignment = 64;

  struct Free {
    void operator()(T* numbers) const { std::free(numbers); }
  };

  std::unique_ptr<T[], Free> numbers_;
  std::int64_t bytes_ = 0;
  std::optional<NoiseStream> stream_;
  std::vector<Segment> segments_;
};

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

  std::int64_t kept_bytes(std::span<const Segment> segments) const override {
    return functions_.keeps_noise ? KeptNoise<T>::bytes(BlockPlan(segments)) : 0;
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
    const bool rebuilds = functions_.keeps_noise && arrays.noise != nullptr && arrays.scaled_gradient == nullptr;
    const T* const eps = rebuilds ? kept_.find(*arrays.noise, plan) : nullptr;
    const bool keeps = rebuilds && write && arrays.next_weights != nullptr && arrays.next_noise != nullptr;
    T* const next_eps = keeps ? kept_.make_room(plan) : nullptr;
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
      sums[static_cast<std::size_t>(block.index)] =
          functions_.update({.gaussian = segments[block.segment].gaussian,
                             .write = write,
                             .rule = rule.rule,
                             .element = e,
                             .count = block.count,
                             .step = step,
                             .segment = constants[block.segment],
                             .mean = at(arrays.mean, e),
                             .raw_scale = at(arrays.raw_scale, e),
                             .mean_first = at(arrays.mean_first, e),
                             .mean_second = at(arrays.mean_second, e),
                             .scale_first = at(arrays.scale_first, e),
                             .scale_second = at(arrays.scale_second, e),
                             .gradient = gradient,
                             .scaled_gradient = scaled,
                             .noise = arrays.noise,
                             .next_weights = write ? at(arrays.next_weights, e) : nullptr,
                             .next_noise = arrays.next_noise,
                             .eps = at(eps, block.index * kBlock),
                             .next_eps = at(next_eps, block.index * kBlock)});
    });
    if (next_eps != nullptr) kept_.set_stream(*arrays.next_noise, plan);
    return plan.combine(sums);
  }

  std::string_view name_;
  BlockFunctions<T> functions_;
  int threads_;
  KeptNoise<T> kept_;
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
