// Ranks that update their shares do, together, what one does that updates everything.
#include "credence/posteriors/update_share.h"

#include <gtest/gtest.h>

namespace credence {
namespace {

using kernels::kSumStretch;
using kernels::Rule;
using kernels::Segment;
using kernels::SegmentSums;

torch::Tensor waves(std::int64_t count, double rate) {
  return torch::sin(torch::arange(count, torch::kFloat64).square() * rate + 0.3).to(torch::kFloat32);
}

/// A large tensor of which a part is left over, a small one, a large one of point estimates, a large one that is not
/// dealt.
const std::vector<Segment> kSegments = {
    {.offset = 0, .count = 9 * kSumStretch + 100, .prior_mean = 0.1, .prior_scale = 0.5},
    {.offset = 9 * kSumStretch + 128, .count = 1000, .prior_scale = 2.0},
    {.offset = 9 * kSumStretch + 1152, .count = 4 * kSumStretch, .gaussian = false, .prior_scale = 1.0},
    {.offset = 13 * kSumStretch + 1152, .count = 2 * kSumStretch + 1, .prior_scale = 0.3}};
constexpr std::int64_t kElements = 15 * kSumStretch + 1216;
const std::vector<bool> kDealt = {true, false, true, false};

struct State {
  torch::Tensor mean = waves(kElements, 0.7), raw = waves(kElements, 0.9) - 3.0, weights = torch::zeros({kElements});
  MomentArenas moments{waves(kElements, 1.1) * 0.01, waves(kElements, 1.3).square() * 1e-4,
                       waves(kElements, 1.5).square() * 0.01 + 0.1, waves(kElements, 1.7).square() * 1e-4};

  std::vector<torch::Tensor> arrays() const {
    return {mean, raw, weights, moments.mean_first, moments.mean_second, moments.scale_first, moments.scale_second};
  }
};

GradientSum gradient() {
  GradientSum gradient;
  for (const Segment& segment : kSegments) gradient.slots.push_back(waves(segment.count, 2.1).view({-1, 1}));
  gradient.noise = {.seed = 5, .step = 2};
  return gradient;
}

kernels::UpdateRule rule_of(Rule rule) {
  return {.rule = rule,
          .learning_rate = 0.01,
          .scale_learning_rate = 0.02,
          .step = 3,
          .gradient_multiplier = 0.25,
          .cross_entropy_weight = 1e-3,
          .entropy_weight = 1e-3};
}

std::vector<SegmentSums> update(State& state, std::span<const Segment> segments, kernels::UpdateRule rule,
                                std::span<const kernels::SegmentRates> rates, const GradientSum& gradient) {
  ArenaKernels kernels(torch::kFloat32, torch::kCPU, 1);
  if (rule.rule == Rule::lars) rule.rates = rates;
  return kernels.update(segments, rule, state.mean, state.raw, state.moments, gradient, state.weights,
                        {.seed = 5, .step = 3});
}

std::vector<double> numbers_of(const std::vector<SegmentSums>& sums) {
  std::vector<double> numbers;
  for (const SegmentSums& s : sums) {
    numbers.insert(numbers.end(), {s.log_scale, s.squared_deviation, s.squared_gradient, s.squared_mean,
                                   s.squared_mean_gradient, s.squared_raw_gradient});
  }
  return numbers;
}

TEST(UpdateShare, TogetherTheRanksDoWhatOneDoes) {
  const std::vector<kernels::SegmentRates> rates = {{0.5, 0.7}, {1.0, 1.0}, {2.0, 1.0}, {0.1, 3.0}};
  for (const Rule rule : {Rule::adam, Rule::sgd, Rule::ivon, Rule::lars}) {
    State whole;
    const std::vector<SegmentSums> expected = update(whole, kSegments, rule_of(rule), rates, gradient());
    for (const int ranks : {1, 2, 4}) {
      std::vector<SegmentSums> sums;
      for (int rank = 0; rank < ranks; ++rank) {
        const UpdateShare share(kSegments, kDealt, rank, ranks);
        EXPECT_TRUE(share.dealt());
        State state;
        const std::vector<SegmentSums> placed = share.placed(
            update(state, share.segments(), rule_of(rule), share.rates(rates), share.gradient(gradient())));
        sums.resize(placed.size());
        for (std::size_t i = 0; i < placed.size(); ++i) sums[i] += placed[i];
        // Its own chunks and what everybody updates are those of one rank; other ranks' chunks are as they were.
        State expected_state;
        for (const Segment& own : share.segments()) {
          for (std::size_t i = 0; i < whole.arrays().size(); ++i) {
            expected_state.arrays()[i]
                .narrow(0, own.offset, own.count)
                .copy_(whole.arrays()[i].narrow(0, own.offset, own.count));
          }
        }
        for (std::size_t i = 0; i < whole.arrays().size(); ++i) {
          EXPECT_TRUE(torch::equal(expected_state.arrays()[i], state.arrays()[i])) << "array " << i;
        }
        for (const UpdateShare::Head& head : share.heads()) {
          const auto chunk = [&](const State& of) {
            return of.mean.narrow(0, head.offset + head.count / ranks * rank, head.count / ranks);
          };
          EXPECT_TRUE(torch::equal(chunk(state), chunk(whole)));
        }
      }
      const UpdateShare any(kSegments, kDealt, 0, ranks);
      EXPECT_EQ(numbers_of(any.of_segments(sums)), numbers_of(expected)) << ranks << " ranks";
    }
  }
}

TEST(UpdateShare, DealsAsManyStretchesAsTheRanksShareEvenly) {
  const UpdateShare share(kSegments, kDealt, 1, 4);
  ASSERT_EQ(share.heads().size(), 2U);
  EXPECT_EQ(share.heads()[0].offset, 0);
  EXPECT_EQ(share.heads()[0].count, 8 * kSumStretch);
  EXPECT_EQ(share.heads()[1].offset, kSegments[2].offset);
  EXPECT_EQ(share.heads()[1].count, 4 * kSumStretch);
  EXPECT_FALSE(UpdateShare(kSegments, kDealt, 0, 16).dealt());  // no tensor has sixteen stretches
  EXPECT_FALSE(UpdateShare().dealt());
}

}  // namespace
}  // namespace credence
