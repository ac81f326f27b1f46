#include "credence/data/sampling.h"

#include <gmock/gmock.h>

#include <limits>
#include <map>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/data/random_words.h"
#include "unit/data/sampling_laws.h"
#include "unit/data/statistics.h"

namespace credence {
namespace {

using test::chi_square;
using test::chi_square_limit;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::int64_t> epoch_order(std::uint64_t seed, std::int64_t examples, std::int64_t epoch) {
  return SamplingPlan(seed, examples, examples, 1).select(epoch, 0).examples;
}

TEST(SamplingPlan, LawsHold) {
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{12345}, (std::uint64_t{1} << 56) - 1})
    for (const std::int64_t examples : {1, 2, 3, 7, 50, 97})
      for (const std::int64_t shard_size : {1, 3, 10, 64})
        for (const int shards : {1, 2, 4, 5})
          EXPECT_TRUE(test::laws_hold({seed, examples, shard_size, shards}))
              << seed << " " << examples << " " << shard_size << " " << shards;
}

// Numbers of references/philox_order.py, which is written from the definitions.
TEST(SamplingPlan, TheOrderNeverChanges) {
  EXPECT_THAT(epoch_order(0, 12, 0), ElementsAre(4, 2, 11, 7, 1, 8, 3, 0, 9, 5, 10, 6));
  EXPECT_THAT(epoch_order(0, 12, 1), ElementsAre(0, 7, 4, 2, 6, 1, 3, 10, 9, 11, 8, 5));
  EXPECT_THAT(epoch_order(1, 12, 0), ElementsAre(2, 8, 7, 10, 1, 9, 5, 0, 11, 3, 4, 6));
  EXPECT_THAT(epoch_order((std::uint64_t{1} << 56) - 1, 12, 3), ElementsAre(10, 6, 7, 0, 1, 4, 2, 5, 3, 8, 9, 11));
}

TEST(SamplingPlan, EveryOrderIsAsLikely) {
  std::map<std::vector<std::int64_t>, std::int64_t> seen;
  const SamplingPlan plan(3, 4, 4, 1);
  for (std::int64_t epoch = 0; epoch < 24000; ++epoch) ++seen[plan.select(epoch, 0).examples];
  ASSERT_EQ(seen.size(), 24U);
  std::vector<std::int64_t> counts;
  for (const auto& [order, count] : seen) counts.push_back(count);
  EXPECT_LT(chi_square(counts), chi_square_limit(counts.size()));
}

TEST(SamplingPlan, EveryExampleComesAtEveryPlace) {
  constexpr std::int64_t kExamples = 30;
  std::vector<std::int64_t> counts(kExamples * kExamples);
  for (std::uint64_t seed = 0; seed < 6000; ++seed) {
    const auto order = epoch_order(seed, kExamples, 1);
    for (std::size_t place = 0; place < order.size(); ++place)
      ++counts[place * kExamples + static_cast<std::size_t>(order[place])];
  }
  // Rows and columns sum up alike, so there is less freedom than cells, and the limit is on the safe side.
  EXPECT_LT(chi_square(counts), chi_square_limit(counts.size()));
}

TEST(SamplingPlan, EpochsAndSeedsAreIndependent) {
  // Places on which two random orders agree are Poisson distributed with mean 1: over 2,000 pairs, 2,000 +- 45.
  std::int64_t epochs = 0, seeds = 0;
  for (std::int64_t i = 0; i < 2000; ++i) {
    const auto first = epoch_order(9, 100, i), next = epoch_order(9, 100, i + 1);
    const auto other = epoch_order(static_cast<std::uint64_t>(i) + 10, 100, i);
    for (std::size_t k = 0; k < 100; ++k) epochs += first[k] == next[k], seeds += first[k] == other[k];
  }
  EXPECT_NEAR(static_cast<double>(epochs), 2000, 5 * 45);
  EXPECT_NEAR(static_cast<double>(seeds), 2000, 5 * 45);
}

TEST(SamplingPlan, IsSafeFromSeveralThreads) {
  const SamplingPlan plan(1, 1000, 700, 2);
  std::vector<std::vector<std::int64_t>> expected;
  for (std::int64_t step = 0; step < 30; ++step)
    expected.push_back(SamplingPlan(1, 1000, 700, 2).select(step, 1).examples);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 300; ++i) {
        const std::int64_t step = (i * (2 * t + 1)) % 30;
        wrong += plan.select(step, 1).examples != expected[static_cast<std::size_t>(step)];
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(SamplingPlan, KeepsTheTwoEpochsUsedLast) {
  constexpr std::int64_t kExamples = 500000;
  const SamplingPlan plan(1, kExamples, 10, 1);
  const Stopwatch stopwatch;
  plan.select(0, 0);
  const double one_shuffle = stopwatch.seconds();
  // Back and forth between epochs 5 and 6, as a batch across their border does: two shuffles, not 200.
  const Stopwatch again;
  for (int i = 0; i < 100; ++i)
    for (const std::int64_t epoch : {5, 6}) plan.select(epoch * kExamples / 10, 0);
  EXPECT_LT(again.seconds(), 40 * one_shuffle);
}

TEST(SamplingPlan, StepsAndEpochs) {
  EXPECT_EQ(SamplingPlan(0, 60000, 256, 2).steps(10), 2344);
  EXPECT_EQ(SamplingPlan(0, 60000, 256, 2).steps(0), 0);
  EXPECT_EQ(SamplingPlan(0, 100, 1, 1).steps(0.07), 7) << "0.07 * 100 is 7.000000000000001";
  EXPECT_EQ(SamplingPlan(0, 10, 40, 1).steps(1), 1);
  EXPECT_EQ(SamplingPlan(0, 10, 40, 1).steps(4.01), 2);
  EXPECT_DOUBLE_EQ(SamplingPlan(0, 60000, 256, 2).epochs(2344), 2344.0 * 256 / 60000);
  const SamplingPlan plan(0, 10, 5, 1);
  for (const double epochs : {-1.0, std::nan(""), std::numeric_limits<double>::infinity(), 1e300})
    EXPECT_THROW(plan.steps(epochs), UserError) << epochs;
}

TEST(SamplingPlan, RefusesWhatCannotBe) {
  const auto making = [](std::uint64_t seed, std::int64_t examples, std::int64_t batch, int shards) {
    return [=] { SamplingPlan(seed, examples, batch, shards); };
  };
  EXPECT_THAT(making(0, 0, 1, 1), ThrowsMessage<UserError>(HasSubstr("no examples")));
  EXPECT_THAT(making(0, 10, 10, 4),
              ThrowsMessage<UserError>(HasSubstr("batch size 10 is no positive multiple of the 4")));
  EXPECT_THAT(making(0, 10, 0, 1), ThrowsMessage<UserError>(HasSubstr("batch size 0")));
  EXPECT_THAT(making(0, 10, -4, 2), ThrowsMessage<UserError>(HasSubstr("batch size -4")));
  EXPECT_THAT(making(0, 10, 4, 0), ThrowsMessage<UserError>(HasSubstr("number of shards")));
  EXPECT_THAT(making(std::uint64_t{1} << 56, 10, 4, 2), ThrowsMessage<UserError>(HasSubstr("below 2^56")));
  const SamplingPlan plan(0, 10, 4, 2);
  EXPECT_THROW(plan.select(0, 2), InternalError);
  EXPECT_THROW(plan.select(0, -1), InternalError);
  EXPECT_THROW(plan.select(-1, 0), InternalError);
  EXPECT_THROW(plan.select(std::numeric_limits<std::int64_t>::max() / 4, 0), InternalError);
  EXPECT_NO_THROW(plan.select(std::numeric_limits<std::int64_t>::max() / 4 - 1, 1));
}

// A product's high word alone would put half of the values on 0 mod 3, a remainder half of them below 2^30.
TEST(RandomWords, BoundedIntegersAreUnbiased) {
  for (const std::uint64_t bound : {std::uint64_t{3} << 30, std::uint64_t{3} << 40}) {
    RandomWords random(5, kernels::Purpose::data_order, 0);
    std::vector<std::int64_t> remainders(3), thirds(3);
    for (int i = 0; i < 30000; ++i) {
      const std::uint64_t value = random.below(bound);
      ASSERT_LT(value, bound);
      ++remainders[value % 3];
      ++thirds[value / (bound / 3)];
    }
    EXPECT_LT(chi_square(remainders), chi_square_limit(3)) << bound;
    EXPECT_LT(chi_square(thirds), chi_square_limit(3)) << bound;
  }
}

TEST(RandomWords, TheLimitsOfBounds) {
  RandomWords random(5, kernels::Purpose::data_order, 0), words(5, kernels::Purpose::data_order, 0);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(random.below(std::uint64_t{1} << 32), words.next()) << "nothing to cut";
  for (int i = 0; i < 9; ++i) EXPECT_EQ(random.below(1), 0U);
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t seen = 0;
  for (int i = 0; i < 200; ++i) seen |= random.below(most);
  EXPECT_EQ(seen, most);
}

TEST(RandomWords, WideAndNarrowElementsShuffleAlike) {
  std::vector<std::int32_t> narrow(1000);
  std::vector<std::int64_t> wide(1000);
  for (std::size_t i = 0; i < 1000; ++i) wide[i] = narrow[i] = static_cast<std::int32_t>(i);
  RandomWords first(1, kernels::Purpose::data_order, 2), second(1, kernels::Purpose::data_order, 2);
  shuffle(std::span<std::int32_t>(narrow), first);
  shuffle(std::span<std::int64_t>(wide), second);
  EXPECT_TRUE(std::ranges::equal(narrow, wide));
}

}  // namespace
}  // namespace credence
