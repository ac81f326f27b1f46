#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arena.h"

/// Bit-for-bit comparisons of an implementation with the reference.
namespace credence::kernels::test {

/// Where an implementation's arrays live.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual float* upload(const std::vector<float>& values) = 0;
  virtual void download(const float* from, std::vector<float>& values) = 0;
};

class HostMemory final : public Memory {
 public:
  float* upload(const std::vector<float>& values) override {
    copies_.push_back(std::make_unique<std::vector<float>>(values));
    return copies_.back()->data();
  }
  void download(const float* from, std::vector<float>& values) override {
    std::copy_n(from, values.size(), values.begin());
  }

 private:
  std::vector<std::unique_ptr<std::vector<float>>> copies_;
};

inline void expect_same_bits(const std::vector<float>& got, const std::vector<float>& expected,
                             const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  std::size_t different = 0, first = 0;
  for (std::size_t i = got.size(); i-- > 0;) {
    if (std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(expected[i])) continue;
    ++different;
    first = i;
  }
  EXPECT_EQ(different, 0u) << what << ": element " << first << " is " << got[first] << ", expected " << expected[first];
}

inline void expect_same_bits(const std::vector<SegmentSums>& got, const std::vector<SegmentSums>& expected,
                             const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t s = 0; s < got.size(); ++s) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].log_scale), std::bit_cast<std::uint64_t>(expected[s].log_scale))
        << what << ", log scale of segment " << s;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].squared_deviation),
              std::bit_cast<std::uint64_t>(expected[s].squared_deviation))
        << what << ", deviation of segment " << s;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].squared_gradient),
              std::bit_cast<std::uint64_t>(expected[s].squared_gradient))
        << what << ", gradient of segment " << s;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].squared_mean), std::bit_cast<std::uint64_t>(expected[s].squared_mean))
        << what << ", mean of segment " << s;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].squared_mean_gradient),
              std::bit_cast<std::uint64_t>(expected[s].squared_mean_gradient))
        << what << ", likelihood's gradient of segment " << s;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(got[s].squared_raw_gradient),
              std::bit_cast<std::uint64_t>(expected[s].squared_raw_gradient))
        << what << ", raw gradient of segment " << s;
  }
}

using Kernels = KernelSet<float>;

inline const NoiseStream kNoise{.seed = 0x00123456789ABCDE, .step = 3, .shard = 1, .sample = 2};
inline const NoiseStream kNextNoise{.seed = 0x00123456789ABCDE, .step = 4, .negate = true};

inline void compare_draw(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  Arena<float> arena(kOddSizes);
  std::vector<float> weights(arena.weights);
  float* const out = memory.upload(arena.weights);
  reference_kernels<float>(1)->draw(arena.segments, arena.mean.data(), arena.raw_scale.data(), kNextNoise,
                                    arena.weights.data());
  kernels.draw(arena.segments, memory.upload(arena.mean), memory.upload(arena.raw_scale), kNextNoise, out);
  memory.download(out, weights);
  expect_same_bits(weights, arena.weights, what);
}

inline void compare_scales(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  Arena<float> arena(kOddSizes);
  std::vector<float> scales(arena.weights);
  float* const out = memory.upload(arena.weights);
  reference_kernels<float>(1)->scales(arena.segments, arena.raw_scale.data(), arena.weights.data());
  kernels.scales(arena.segments, memory.upload(arena.raw_scale), out);
  memory.download(out, scales);
  expect_same_bits(scales, arena.weights, what);
}

inline void compare_accumulate(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  const auto reference = reference_kernels<float>(1);
  for (const bool accumulate : {false, true}) {
    for (const bool scaled : {false, true}) {
      Arena<float> arena(kOddSizes);
      float* const sum = memory.upload(arena.mean_first);
      float* const scaled_sum = memory.upload(arena.scale_first);
      float* const other = memory.upload(arena.mean);
      for (std::size_t s = 0; s < arena.segments.size(); ++s) {
        const Segment& segment = arena.segments[s];
        reference->accumulate(segment, arena.gradients[s].data(), kNoise, accumulate, arena.mean_first.data(),
                              scaled ? arena.scale_first.data() : nullptr);
        reference->add(segment, arena.mean.data(), arena.mean_first.data());
        kernels.accumulate(segment, memory.upload(arena.gradients[s]), kNoise, accumulate, sum,
                           scaled ? scaled_sum : nullptr);
        kernels.add(segment, other, sum);
      }
      std::vector<float> got(arena.mean_first.size());
      memory.download(sum, got);
      expect_same_bits(got, arena.mean_first, what + ", sum");
      memory.download(scaled_sum, got);
      expect_same_bits(got, arena.scale_first, what + ", scaled sum");
    }
  }
}

/// The arrays of an arena copied into `memory`.
struct Copy {
  UpdateArrays<float> arrays;
  std::vector<const float*> gradients;

  Copy(const Arena<float>& arena, const UpdateArrays<float>& original, Memory& memory) : arrays(original) {
    arrays.mean = memory.upload(arena.mean);
    arrays.raw_scale = memory.upload(arena.raw_scale);
    arrays.mean_first = memory.upload(arena.mean_first);
    arrays.mean_second = memory.upload(arena.mean_second);
    arrays.scale_first = memory.upload(arena.scale_first);
    arrays.scale_second = memory.upload(arena.scale_second);
    if (original.scaled_gradient != nullptr) arrays.scaled_gradient = memory.upload(arena.scaled_gradient);
    if (original.next_weights != nullptr) arrays.next_weights = memory.upload(arena.weights);
    for (std::size_t s = 0; s < original.gradients.size(); ++s) {
      gradients.push_back(original.gradients[s] == nullptr ? nullptr : memory.upload(arena.gradients[s]));
    }
    arrays.gradients = gradients;
  }

  void expect_same(Arena<float>& arena, Memory& memory, const std::string& what) const {
    std::vector<float> got(arena.mean.size());
    const auto compare = [&](const float* from, const std::vector<float>& expected, const char* name) {
      memory.download(from, got);
      expect_same_bits(got, expected, what + ", " + name);
    };
    compare(arrays.mean, arena.mean, "mean");
    compare(arrays.raw_scale, arena.raw_scale, "raw scale");
    compare(arrays.mean_first, arena.mean_first, "first moment of the mean");
    compare(arrays.mean_second, arena.mean_second, "second moment of the mean");
    compare(arrays.scale_first, arena.scale_first, "first moment of the raw scale");
    compare(arrays.scale_second, arena.scale_second, "second moment of the raw scale");
    if (arrays.next_weights != nullptr) compare(arrays.next_weights, arena.weights, "next weights");
  }
};

inline void compare_update(Kernels& kernels, UpdateRule rule, bool scaled, bool next, const std::string& what,
                           Memory& memory) {
  Arena<float> arena(kOddSizes);
  if (rule.rule == Rule::ivon) {  // a Hessian, and its sum with the weight decay is positive
    for (float& hessian : arena.scale_first) hessian = std::abs(hessian);
  }
  UpdateArrays<float> arrays = arena.update_arrays();
  arena.gradient_pointers[3] = nullptr;  // a segment without a gradient
  if (scaled) arrays.scaled_gradient = arena.scaled_gradient.data();
  arrays.noise = &kNoise;
  if (next) {
    arrays.next_weights = arena.weights.data();
    arrays.next_noise = &kNextNoise;
  }
  const Copy copy(arena, arrays, memory);
  const auto reference = reference_kernels<float>(1);
  for (rule.step = 1; rule.step <= 3; ++rule.step) {
    const auto expected = reference->update(arena.segments, rule, arrays);
    expect_same_bits(kernels.update(arena.segments, rule, copy.arrays), expected, what);
    copy.expect_same(arena, memory, what + ", step " + std::to_string(rule.step));
  }
}

inline void compare_updates(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  const std::pair<Rule, const char*> rules[] = {
      {Rule::adam, ", adam"}, {Rule::sgd, ", sgd"}, {Rule::ivon, ", ivon"}, {Rule::lars, ", lars"}};
  std::vector<SegmentRates> rates;
  for (std::size_t s = 0; s < kOddSizes.size(); ++s) rates.push_back({1.0 / (1.0 + static_cast<double>(s)), 0.3});
  for (const auto& [kind, name] : rules) {
    UpdateRule rule = example_rule(kind);
    if (kind == Rule::lars) rule.rates = rates;
    for (const bool scaled : {false, true}) {
      for (const bool next : {false, true}) {
        compare_update(kernels, rule, scaled, next,
                       what + name + (scaled ? ", two sums" : ", one sum") + (next ? ", next draw" : ""), memory);
      }
    }
  }
}

/// Updates whose noise is, or is not, that of the draw before, over the same segments or others: whatever an
/// implementation keeps of a draw must not be taken for other noise.
inline void compare_runs_of_updates(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  static const std::vector<std::int64_t> sizes = {1, 63, 65, 1025, 129, 2111, 100};
  enum class Kind { one_sum, two_sums, no_draw };
  struct Call {
    NoiseStream noise, next;
    std::size_t segments = sizes.size();  // the first so many
    bool others_gaussian = false;         // of the other segments than usual
    Kind kind = Kind::one_sum;
  };
  const auto step = [](std::uint32_t number) { return NoiseStream{.seed = 5, .step = number}; };
  const NoiseStream other_seed{.seed = 6, .step = 8}, other_shard{.seed = 5, .step = 9, .shard = 1};
  const NoiseStream other_sample{.seed = 5, .step = 10, .sample = 1}, negated{.seed = 5, .step = 11, .negate = true};
  const NoiseStream other_purpose{.seed = 5, .purpose = Purpose::prediction, .step = 12};
  const Call calls[] = {{step(1), step(2)},
                        {step(2), step(3)},
                        {.noise = step(3), .next = step(4), .segments = 5},
                        {step(4), step(5)},
                        {step(5), step(6)},
                        {step(5), step(7)},
                        {.noise = step(7), .next = step(8), .kind = Kind::no_draw},
                        {step(7), step(8)},
                        {other_seed, step(9)},
                        {other_shard, step(10)},
                        {other_sample, step(11)},
                        {negated, step(12)},
                        {other_purpose, step(13)},
                        {.noise = step(13), .next = step(14), .others_gaussian = true},
                        {step(14), step(15)},
                        {.noise = step(15), .next = step(16), .kind = Kind::two_sums},
                        {step(15), step(16)}};
  const auto reference = reference_kernels<float>(1);
  for (const Rule rule_kind : {Rule::adam, Rule::sgd, Rule::ivon}) {
    Arena<float> arena(sizes);
    if (rule_kind == Rule::ivon) {
      for (float& hessian : arena.scale_first) hessian = std::abs(hessian);
    }
    UpdateArrays<float> arrays = arena.update_arrays();
    arena.gradient_pointers[6] = nullptr;
    arrays.scaled_gradient = arena.scaled_gradient.data();
    arrays.next_weights = arena.weights.data();
    const Copy copy(arena, arrays, memory);
    UpdateArrays<float> copied = copy.arrays;
    UpdateRule rule = example_rule(rule_kind);
    for (const Call& call : calls) {
      std::vector<Segment> segments(arena.segments.begin(),
                                    arena.segments.begin() + static_cast<std::ptrdiff_t>(call.segments));
      if (call.others_gaussian) {
        for (Segment& segment : segments) segment.gaussian = !segment.gaussian;
      }
      const auto prepare = [&](UpdateArrays<float> all, std::span<const float* const> gradients) {
        all.gradients = gradients.first(call.segments);
        all.noise = &call.noise;
        all.next_noise = &call.next;
        if (call.kind != Kind::two_sums) all.scaled_gradient = nullptr;
        if (call.kind == Kind::no_draw) all.next_weights = nullptr;
        return all;
      };
      const UpdateArrays<float> expected_in = prepare(arrays, arena.gradient_pointers);
      const UpdateArrays<float> got_in = prepare(copied, copy.gradients);
      const std::string now = what + ", call " + std::to_string(&call - calls);
      expect_same_bits(kernels.measure(segments, rule, got_in), reference->measure(segments, rule, expected_in), now);
      const auto expected = reference->update(segments, rule, expected_in);
      expect_same_bits(kernels.update(segments, rule, got_in), expected, now);
      copy.expect_same(arena, memory, now);
      ++rule.step;
    }
  }
}

inline void compare_measure(Kernels& kernels, const std::string& what, Memory&& memory = HostMemory()) {
  Arena<float> arena(kOddSizes);
  UpdateArrays<float> arrays = arena.update_arrays();
  arrays.noise = &kNoise;
  const auto reference = reference_kernels<float>(1);
  UpdateRule rule = example_rule(Rule::adam);
  const Copy copy(arena, arrays, memory);
  for (const Rule kind : {Rule::lars, Rule::ivon, Rule::adam}) {
    rule.rule = kind;
    expect_same_bits(kernels.measure(arena.segments, rule, copy.arrays),
                     reference->measure(arena.segments, rule, arrays), what);
    copy.expect_same(arena, memory, what);
  }
  arrays.gradients = {};
  const Copy without(arena, arrays, memory);
  expect_same_bits(kernels.measure(arena.segments, rule, without.arrays),
                   reference->measure(arena.segments, rule, arrays), what + ", no gradients");
}

}  // namespace credence::kernels::test
