#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "credence/kernels/kernel_set.h"

namespace credence::kernels::test {

/// A random arena: every array that the kernels read or write, with padding between segments that no kernel may touch.
template <class T>
struct Arena {
  static constexpr T kPadding = T(-12345.5);

  std::vector<Segment> segments;
  std::vector<T> mean, raw_scale, mean_first, mean_second, scale_first, scale_second, scaled_gradient, weights;
  std::vector<std::vector<T>> gradients;  // exactly as long as the segments: reading further is caught by sanitizers
  std::vector<const T*> gradient_pointers;

  explicit Arena(std::span<const std::int64_t> counts, unsigned seed = 1) {
    std::int64_t offset = 0;
    for (std::size_t s = 0; s < counts.size(); ++s) {
      Segment segment;
      segment.offset = offset;
      segment.count = counts[s];
      segment.gaussian = s % 3 != 2;
      segment.prior_mean = 0.1 * static_cast<double>(s % 4);
      if (s % 5 != 4) segment.prior_scale = 0.3 + 0.2 * static_cast<double>(s % 3);
      segments.push_back(segment);
      offset += (counts[s] + kNoiseGroup - 1) / kNoiseGroup * kNoiseGroup;
    }
    const auto size = static_cast<std::size_t>(offset);
    for (auto* array : arrays()) array->assign(size, kPadding);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (const Segment& segment : segments) {
      gradients.emplace_back();
      for (std::int64_t i = segment.offset; i < segment.offset + segment.count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        mean[at] = static_cast<T>(0.5 * normal(generator));
        raw_scale[at] = static_cast<T>(-4.0 + 6.0 * normal(generator));
        mean_first[at] = static_cast<T>(0.01 * normal(generator));
        mean_second[at] = static_cast<T>(std::pow(0.01 * normal(generator), 2));
        scale_first[at] = static_cast<T>(0.01 * normal(generator));
        scale_second[at] = static_cast<T>(std::pow(0.01 * normal(generator), 2));
        scaled_gradient[at] = static_cast<T>(normal(generator));
        gradients.back().push_back(static_cast<T>(normal(generator)));
      }
    }
    for (const auto& gradient : gradients) gradient_pointers.push_back(gradient.data());
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::vector<std::vector<T>*> arrays() {
    return {&mean, &raw_scale, &mean_first, &mean_second, &scale_first, &scale_second, &scaled_gradient, &weights};
  }

  UpdateArrays<T> update_arrays() {
    UpdateArrays<T> arrays;
    arrays.mean = mean.data();
    arrays.raw_scale = raw_scale.data();
    arrays.mean_first = mean_first.data();
    arrays.mean_second = mean_second.data();
    arrays.scale_first = scale_first.data();
    arrays.scale_second = scale_second.data();
    arrays.gradients = gradient_pointers;
    return arrays;
  }

  /// Calls visit(segment's index, element in the arena, element in the segment).
  template <class Visit>
  void for_elements(const Visit& visit) const {
    for (std::size_t s = 0; s < segments.size(); ++s) {
      for (std::int64_t i = 0; i < segments[s].count; ++i) {
        visit(s, static_cast<std::size_t>(segments[s].offset + i), static_cast<std::size_t>(i));
      }
    }
  }
};

inline UpdateRule example_rule(Rule rule) {
  UpdateRule r;
  r.rule = rule;
  r.learning_rate = 5e-3;
  r.scale_learning_rate = 2e-2;
  r.step = 7;
  r.gradient_multiplier = 0.25;
  r.cross_entropy_weight = 1e-2;
  r.entropy_weight = 2e-2;
  r.clip_multiplier = 0.7;
  if (rule == Rule::ivon) {
    r.beta2 = 0.9;
    r.clip_radius = 0.5;
  }
  return r;
}

inline const std::vector<std::int64_t> kOddSizes = {1,   5,    15,   16,   17,   31, 63,   64,    65,   100,
                                                    960, 1000, 1023, 1024, 1025, 3,  2111, 10007, 4096, 129};

}  // namespace credence::kernels::test
