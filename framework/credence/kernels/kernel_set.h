#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "credence/base/dtype.h"
#include "credence/kernels/noise.h"

namespace credence::kernels {

/// One tensor of a parameter arena: elements [offset, offset + count), offset a multiple of kNoiseGroup.
/// A Gaussian segment has a mean and a raw scale (standard deviation = softplus(raw scale)); any other is a
/// point estimate and has a mean only.
struct Segment {
  std::int64_t offset = 0;
  std::int64_t count = 0;
  bool gaussian = true;
  double prior_mean = 0.0;
  double prior_scale = std::numeric_limits<double>::infinity();  // standard deviation; infinite: no prior
  bool layerwise = true;  // lars: a trust ratio of its own; false (norms, biases): the plain learning rate
};

enum class Rule : std::uint8_t { adam, sgd, ivon, lars };

/// Factors on the learning rates of one segment.
struct SegmentRates {
  double mean = 1.0;
  double scale = 1.0;
};

/// One step of the optimizer, the same for every segment.
struct UpdateRule {
  Rule rule = Rule::adam;
  double learning_rate = 0.0;        // of means
  double scale_learning_rate = 0.0;  // of raw scales; IVON has none
  double beta1 = 0.9;                // Adam, IVON; SGD, LARS: momentum
  double beta2 = 0.999;              // Adam; IVON: of the Hessian
  double epsilon = 1e-8;             // Adam
  double hess_init = 0.1;            // IVON: the Hessian at the start; of point segments always
  double clip_radius = std::numeric_limits<double>::infinity();  // IVON: largest step before the learning rate
  std::int64_t step = 1;                                         // 1 for the first update: debiasing of Adam and IVON
  double gradient_multiplier = 1.0;          // what turns the sums into means: 1 / (shards * samples)
  double cross_entropy_weight = 0.0;         // of E_q[-log p(w)] in the objective, already divided by N
  double entropy_weight = 0.0;               // of -H[q] in the objective, already divided by N
  double clip_multiplier = 1.0;              // applied to the whole gradient of the objective; not by IVON
  std::span<const SegmentRates> rates = {};  // LARS: one per segment; empty: 1
};

/// Arrays over a whole arena, indexed by element. T is float or double.
/// For Gaussian segments dL/dmean = gradient * gradient_multiplier; dL/dscale comes from scaled_gradient
/// (the sum of eps * gradient) where that is given, else it is eps * gradient with eps regenerated from `noise`.
template <class T>
struct UpdateArrays {
  T* mean = nullptr;
  T* raw_scale = nullptr;    // may be null when no segment is Gaussian
  T* mean_first = nullptr;   // Adam m, or momentum of the mean
  T* mean_second = nullptr;  // Adam v of the mean; other rules: null
  T* scale_first = nullptr;  // the same for the raw scale; IVON: the Hessian estimate
  T* scale_second = nullptr;
  std::span<const T* const> gradients;      // one pointer per segment, to that segment's first element
  const T* scaled_gradient = nullptr;       // over the arena; null: rebuilt from noise
  const NoiseStream* noise = nullptr;       // used when scaled_gradient is null
  T* next_weights = nullptr;                // not null: also writes the next draw, mean + scale * eps(next_noise);
  const NoiseStream* next_noise = nullptr;  // for point segments the mean itself
};

/// Elements of a stretch: a segment's sums are those of its stretches, one after the other. So whoever works on whole
/// stretches, counted from a segment's start, finds parts of the very sums that one who works on all of it finds.
inline constexpr std::int64_t kSumStretch = 8192;

/// Sums over one segment, of the values before the update. float64, blocks of 1,024 elements counted from the
/// segment's start over 16 virtual lanes, blocks added to stretches and stretches to the segment: one order everywhere.
struct SegmentSums {
  double log_scale = 0.0;          // sum of log(scale); 0 for point segments
  double squared_deviation = 0.0;  // sum of (mean - prior_mean)^2 + scale^2 (point: without scale^2)
  double squared_gradient = 0.0;   // sum of squares of d objective / d (mean, raw scale), before clipping
  // With Rule::lars only, else 0:
  double squared_mean = 0.0;           // sum of mean^2
  double squared_mean_gradient = 0.0;  // of d NLL / d mean: without the prior
  double squared_raw_gradient = 0.0;   // of d objective / d raw scale; 0 for point segments

  SegmentSums& operator+=(const SegmentSums& other);
};

/// The kernels of one implementation and element type. All arrays live on the implementation's device; calls on
/// cuda are enqueued on the stream given at construction except where a result is returned to the host.
/// No allocation per call beyond a few small vectors and what kept_bytes() tells; parallel over blocks with the given
/// number of threads, results independent of that number. One call at a time.
template <class T>
class KernelSet {
 public:
  virtual ~KernelSet() = default;

  virtual std::string_view name() const = 0;  // "reference", "simd", "cuda"

  /// weights[i] = mean[i] + softplus(raw_scale[i]) * eps(i) on Gaussian segments, mean[i] on the others.
  virtual void draw(std::span<const Segment> segments, const T* mean, const T* raw_scale, const NoiseStream& noise,
                    T* weights) = 0;

  /// For one segment: sum[i] = (accumulate ? sum[i] : 0) + gradient[i]; and, where scaled_sum is not null and the
  /// segment is Gaussian, scaled_sum[i] = (accumulate ? ... : 0) + eps(i) * gradient[i]. `gradient` points at the
  /// segment's first element; sum and scaled_sum at the arena's.
  virtual void accumulate(const Segment& segment, const T* gradient, const NoiseStream& noise, bool accumulate, T* sum,
                          T* scaled_sum) = 0;

  /// sum[i] += other[i] for one segment; both at the arena's first element.
  virtual void add(const Segment& segment, const T* other, T* sum) = 0;

  /// One pass over all state: objective gradient (likelihood sums, KL), optimizer, optionally the next draw.
  /// Returns the sums of every segment. Padding elements between segments are never touched.
  virtual std::vector<SegmentSums> update(std::span<const Segment> segments, const UpdateRule& rule,
                                          const UpdateArrays<T>& arrays) = 0;

  /// What update() keeps for its next call: the noise of a next draw, where gradients are of one sum. 64 MB at most.
  virtual std::int64_t kept_bytes(std::span<const Segment> segments) const {
    static_cast<void>(segments);
    return 0;
  }

  /// The sums that update() would return, without changing anything: what clipping by global norm needs first,
  /// and (with no gradients) what the KL of a posterior is made of.
  virtual std::vector<SegmentSums> measure(std::span<const Segment> segments, const UpdateRule& rule,
                                           const UpdateArrays<T>& arrays) = 0;

  /// scale[i] = softplus(raw_scale[i]), standard deviations as reported and stored.
  virtual void scales(std::span<const Segment> segments, const T* raw_scale, T* scale) = 0;
};

/// Plain C++, the oracle of the others.
template <class T>
std::unique_ptr<KernelSet<T>> reference_kernels(int threads);

/// SIMD through Highway with run-time dispatch; only targets with true fused multiply-add, else the reference.
/// float only: for double this is the reference.
template <class T>
std::unique_ptr<KernelSet<T>> simd_kernels(int threads);

/// CUDA twins, same bits. UserError where the build has no CUDA. `stream` is a cudaStream_t.
std::unique_ptr<KernelSet<float>> cuda_kernels(void* stream);

/// Whether this build has the CUDA kernels and a device is present.
bool cuda_available();

/// raw scale with softplus(raw) = scale, for initial values. In double.
double inverse_softplus(double scale);

}  // namespace credence::kernels
