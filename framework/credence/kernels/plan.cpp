#include "credence/kernels/plan.h"

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"

namespace credence::kernels {

template <class T>
StepConstants<T> step_constants(const UpdateRule& rule) {
  const bool adam = rule.rule == Rule::adam;
  const bool ivon = rule.rule == Rule::ivon;
  const double steps = static_cast<double>(rule.step);
  const double bias1 = adam || ivon ? 1.0 - std::pow(rule.beta1, steps) : 1.0;
  const double bias2 = adam ? 1.0 - std::pow(rule.beta2, steps) : 1.0;
  StepConstants<T> constants;
  constants.gradient_multiplier = static_cast<T>(rule.gradient_multiplier);
  constants.entropy_weight = static_cast<T>(rule.entropy_weight);
  constants.clip_multiplier = static_cast<T>(rule.clip_multiplier);
  constants.first_rate = static_cast<T>(1.0 - rule.beta1);
  constants.beta2 = static_cast<T>(rule.beta2);
  constants.second_rate = static_cast<T>(1.0 - rule.beta2);
  constants.inverse_root_bias2 = static_cast<T>(1.0 / std::sqrt(bias2));
  constants.epsilon = static_cast<T>(rule.epsilon);
  constants.momentum = static_cast<T>(rule.beta1);
  constants.hess_init = static_cast<T>(rule.hess_init);
  constants.clip_radius = static_cast<T>(rule.clip_radius);
  constants.inverse_bias1 = static_cast<T>(1.0 / bias1);
  constants.mean_step = static_cast<T>(adam ? rule.learning_rate / bias1 : rule.learning_rate);
  constants.scale_step = static_cast<T>(adam ? rule.scale_learning_rate / bias1 : rule.scale_learning_rate);
  return constants;
}

template <class T>
static SegmentConstants<T> segment_constants(const Segment& segment, const UpdateRule& rule,
                                             const SegmentRates& rates) {
  const double curvature = rule.cross_entropy_weight / (segment.prior_scale * segment.prior_scale);
  // Scales of a thousand times the prior's: only a prior that weighs less than before (KL warm-up planned anew) gets
  // there, and rounding.
  const double least_precision = std::max(std::ldexp(curvature, -20), 1e-30);
  const double mean_rate = rule.rule == Rule::ivon ? rule.hess_init + curvature : rates.mean;
  return {static_cast<T>(segment.prior_mean), static_cast<T>(curvature), static_cast<T>(least_precision),
          static_cast<T>(mean_rate), static_cast<T>(rates.scale)};
}

template <class T>
std::vector<SegmentConstants<T>> all_segment_constants(std::span<const Segment> segments, const UpdateRule& rule) {
  ensure(rule.rates.empty() || rule.rates.size() == segments.size(), "rates of one factor per segment");
  std::vector<SegmentConstants<T>> constants;
  constants.reserve(segments.size());
  for (std::size_t s = 0; s < segments.size(); ++s) {
    constants.push_back(segment_constants<T>(segments[s], rule, rule.rates.empty() ? SegmentRates() : rule.rates[s]));
  }
  return constants;
}

SegmentSums& SegmentSums::operator+=(const SegmentSums& other) {
  log_scale += other.log_scale;
  squared_deviation += other.squared_deviation;
  squared_gradient += other.squared_gradient;
  squared_mean += other.squared_mean;
  squared_mean_gradient += other.squared_mean_gradient;
  squared_raw_gradient += other.squared_raw_gradient;
  return *this;
}

BlockPlan::BlockPlan(std::span<const Segment> segments) : segments_(segments) {
  constexpr std::int64_t kMostElements = kNoiseGroup << 28;  // 16 Philox blocks a group, a 32-bit element counter
  first_block_.reserve(segments.size() + 1);
  first_block_.push_back(0);
  for (const Segment& segment : segments) {
    ensure(segment.offset >= 0 && segment.offset % kNoiseGroup == 0, "a segment starts at a multiple of 64 elements");
    ensure(segment.count >= 0, "a segment has no negative number of elements");
    require(segment.offset <= kMostElements && segment.count <= kMostElements - segment.offset,
            "An arena of more than {} parameters was asked for; this is the most that one stream of noise covers.",
            kMostElements);
    require(segment.prior_scale > 0, "The prior has a standard deviation of {}; it must be positive.",
            segment.prior_scale);
    first_block_.push_back(first_block_.back() + (segment.count + kBlock - 1) / kBlock);
  }
}

Block BlockPlan::at(std::int64_t index) const {
  const auto next = std::upper_bound(first_block_.begin(), first_block_.end(), index);
  const auto segment = static_cast<std::size_t>(next - first_block_.begin() - 1);
  const std::int64_t begin = (index - first_block_[segment]) * kBlock;
  return {index, segment, begin, segments_[segment].offset + begin, std::min(kBlock, segments_[segment].count - begin)};
}

std::vector<SegmentSums> BlockPlan::combine(std::span<const SegmentSums> block_sums) const {
  constexpr std::int64_t kStretchBlocks = kSumStretch / kBlock;
  std::vector<SegmentSums> sums(segments_.size());
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    const std::int64_t end = first_block_[s + 1];
    for (std::int64_t first = first_block_[s]; first < end; first += kStretchBlocks) {
      SegmentSums stretch;
      for (std::int64_t b = first; b < std::min(end, first + kStretchBlocks); ++b) {
        stretch += block_sums[static_cast<std::size_t>(b)];
      }
      sums[s] += stretch;
    }
  }
  return sums;
}

template <class T>
void check_arrays(std::span<const Segment> segments, const UpdateRule& rule, const UpdateArrays<T>& arrays,
                  bool write) {
  const bool gaussian = std::any_of(segments.begin(), segments.end(), [](const Segment& s) { return s.gaussian; });
  const bool adam = rule.rule == Rule::adam;
  ensure(arrays.mean != nullptr, "means are missing");
  ensure(!gaussian || arrays.raw_scale != nullptr, "raw scales are missing");
  ensure(arrays.gradients.empty() || arrays.gradients.size() == segments.size(), "one gradient pointer per segment");
  const bool any_gradient = std::any_of(arrays.gradients.begin(), arrays.gradients.end(), [](const T* g) { return g; });
  ensure(!gaussian || !any_gradient || arrays.scaled_gradient != nullptr || arrays.noise != nullptr,
         "neither a scaled gradient nor the noise to rebuild it from");
  if (!write) return;
  ensure(rule.step >= 1, "the first update is step 1");
  ensure(!gaussian || rule.rule != Rule::ivon || rule.entropy_weight > 0.0, "IVON's scales follow from the entropy");
  ensure(arrays.mean_first != nullptr && (!adam || arrays.mean_second != nullptr), "optimizer state is missing");
  ensure(!gaussian || (arrays.scale_first != nullptr && (!adam || arrays.scale_second != nullptr)),
         "optimizer state of the raw scales is missing");
  ensure(!gaussian || arrays.next_weights == nullptr || arrays.next_noise != nullptr,
         "the noise of the next draw is missing");
}

template StepConstants<float> step_constants(const UpdateRule&);
template StepConstants<double> step_constants(const UpdateRule&);
template std::vector<SegmentConstants<float>> all_segment_constants(std::span<const Segment>, const UpdateRule&);
template std::vector<SegmentConstants<double>> all_segment_constants(std::span<const Segment>, const UpdateRule&);
template void check_arrays(std::span<const Segment>, const UpdateRule&, const UpdateArrays<float>&, bool);
template void check_arrays(std::span<const Segment>, const UpdateRule&, const UpdateArrays<double>&, bool);

double inverse_softplus(double scale) {
  require(scale > 0 && std::isfinite(scale), "A standard deviation of {} was given; it must be positive and finite.",
          scale);
  return scale + std::log(-std::expm1(-scale));
}

}  // namespace credence::kernels
