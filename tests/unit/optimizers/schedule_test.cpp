// Learning-rate factors against their formulas.
#include "credence/optimizers/schedule.h"

#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"

namespace credence {
namespace {

double factor(const std::string& spec, const ScheduleTime& time) {
  return learning_rate_factor(parse_schedule(spec), time);
}

TEST(Schedule, ConstantStaysOne) {
  for (const std::int64_t step : {0, 1, 99}) EXPECT_EQ(factor("constant", {.step = step, .total_steps = 100}), 1.0);
}

TEST(Schedule, CosineFallsFromOneTowardsZero) {
  EXPECT_EQ(factor("cosine", {.step = 0, .total_steps = 100}), 1.0);
  EXPECT_NEAR(factor("cosine", {.step = 25, .total_steps = 100}), 0.5 + 0.5 * std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(factor("cosine", {.step = 50, .total_steps = 100}), 0.5, 1e-15);
  // The last step: (1 - cos(pi / 100)) / 2.
  EXPECT_NEAR(factor("cosine", {.step = 99, .total_steps = 100}), 0.00024671981713420024, 1e-16);
  EXPECT_NEAR(factor("cosine", {.step = 100, .total_steps = 100}), 0.0, 1e-16);
  EXPECT_NEAR(factor("cosine", {.step = 150, .total_steps = 100}), 0.0, 1e-16);  // never up again
  double last = 2.0;
  for (std::int64_t step = 0; step < 100; ++step) {
    const double now = factor("cosine", {.step = step, .total_steps = 100});
    EXPECT_LT(now, last);
    EXPECT_GT(now, 0.0);
    last = now;
  }
}

TEST(Schedule, WarmupRisesLinearlyThenTheScheduleBegins) {
  for (const char* spec : {"constant", "cosine", "step:1"}) {
    for (std::int64_t step = 0; step < 20; ++step) {
      EXPECT_DOUBLE_EQ(factor(spec, {.step = step, .total_steps = 120, .warmup_steps = 20}),
                       static_cast<double>(step + 1) / 20.0)
          << spec;
    }
  }
  EXPECT_EQ(factor("cosine", {.step = 20, .total_steps = 120, .warmup_steps = 20}), 1.0);
  EXPECT_NEAR(factor("cosine", {.step = 70, .total_steps = 120, .warmup_steps = 20}), 0.5, 1e-15);
  EXPECT_NEAR(factor("cosine", {.step = 120, .total_steps = 120, .warmup_steps = 20}), 0.0, 1e-15);
  // A run that is all warm-up.
  EXPECT_DOUBLE_EQ(factor("cosine", {.step = 9, .total_steps = 10, .warmup_steps = 10}), 1.0);
}

TEST(Schedule, StepsMultiplyAtTheirEpochs) {
  const std::string spec = "step:30,60,80:0.2";
  EXPECT_EQ(factor(spec, {.epoch = 0.0}), 1.0);
  EXPECT_EQ(factor(spec, {.epoch = 29.999}), 1.0);
  EXPECT_DOUBLE_EQ(factor(spec, {.epoch = 30.0}), 0.2);
  EXPECT_DOUBLE_EQ(factor(spec, {.epoch = 60.5}), 0.04);
  EXPECT_DOUBLE_EQ(factor(spec, {.epoch = 1000.0}), 0.008);
  EXPECT_DOUBLE_EQ(factor("step:2", {.epoch = 2.0}), 0.1);
}

TEST(Schedule, BadSpecsAreRefused) {
  for (const char* spec : {"", "cosin", "cosine:2", "constant:1", "step", "step:", "step:a", "step:1:0", "step:1:-1",
                           "step:1:2", "step:1:0.1:3", "step:1,", "step:1:x"}) {
    EXPECT_THROW(parse_schedule(spec), UserError) << spec;
  }
  EXPECT_THAT([] { parse_schedule("cosin"); },
              ::testing::ThrowsMessage<UserError>(::testing::HasSubstr("did you mean 'cosine'")));
}

}  // namespace
}  // namespace credence
