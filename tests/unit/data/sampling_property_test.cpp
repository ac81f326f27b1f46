#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "unit/data/sampling_laws.h"

namespace credence {
namespace {

TEST(SamplingPlan, LawsHoldForAnyArguments) {
  EXPECT_TRUE(rc::check("each example once an epoch, any shards, a pure function", [] {
    test::PlanArguments arguments;
    arguments.seed = *rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << 56);
    arguments.examples = *rc::gen::inRange<std::int64_t>(1, 200);
    arguments.shards = *rc::gen::inRange(1, 9);
    arguments.shard_size = *rc::gen::inRange<std::int64_t>(1, 60);
    RC_ASSERT(test::laws_hold(arguments));
  }));
}

TEST(SamplingPlan, StepsCoverTheEpochsAndNoMore) {
  EXPECT_TRUE(rc::check("ceil(epochs * N / batch) for fractions of an epoch given as decimals", [] {
    const auto hundredths = *rc::gen::inRange<std::int64_t>(0, 100000);
    const auto examples = *rc::gen::inRange<std::int64_t>(1, 2000000);
    const auto batch = *rc::gen::inRange<std::int64_t>(1, 5000);
    const std::int64_t exact = (hundredths * examples + 100 * batch - 1) / (100 * batch);
    const SamplingPlan plan(0, examples, batch, 1);
    RC_ASSERT(plan.steps(static_cast<double>(hundredths) / 100) == exact);
  }));
}

}  // namespace
}  // namespace credence
