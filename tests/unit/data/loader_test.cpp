#include "credence/data/loader.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/data/memory_source.h"

namespace credence {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// Examples whose only input is their own index; can be slow, and can fail at a given read (counted from 0).
class Numbers : public DataSource {
 public:
  explicit Numbers(std::int64_t size) {
    size_ = size;
    spec_.input_shape = {1};
    spec_.classes = 2;
  }
  mutable std::atomic<std::int64_t> reads = 0;
  std::int64_t failing_read = -1;
  std::chrono::milliseconds delay{0};

 protected:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
    if (reads++ == failing_read) throw DataError("numbers.dat: record 7 is damaged");
    std::this_thread::sleep_for(delay);
    for (std::size_t i = 0; i < examples.size(); ++i) batch.inputs[i] = static_cast<float>(examples[i]);
  }
};

std::vector<float> as_floats(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

TEST(Loader, DeliversTheShardsInOrder) {
  const Numbers source(100);
  const SamplingPlan plan(3, 100, 24, 4);
  for (const int depth : {1, 2, 7}) {
    Loader loader(source, plan, {.first_step = 2, .first_shard = 1, .shard_count = 2, .depth = depth});
    for (std::int64_t step = 2; step < 40; ++step)
      for (const int shard : {1, 2}) {
        const Batch& batch = loader.next();
        EXPECT_EQ(batch.size, 6);
        EXPECT_EQ(batch.inputs, as_floats(plan.select(step, shard).examples)) << step << " " << shard;
      }
  }
}

TEST(Loader, AnErrorComesWithItsOwnBatchAndStays) {
  for (const std::int64_t failing : {0, 1, 5, 6})
    for (const int depth : {1, 4, 20}) {
      Numbers source(100);
      source.failing_read = failing;
      const SamplingPlan plan(3, 100, 20, 2);
      Loader loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 2, .depth = depth});
      for (std::int64_t i = 0; i < failing; ++i)
        EXPECT_EQ(loader.next().inputs, as_floats(plan.select(i / 2, static_cast<int>(i % 2)).examples));
      for (int again = 0; again < 3; ++again)
        EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DataError>(HasSubstr("record 7 is damaged")));
    }
}

TEST(Loader, ErrorsThatAreNoErrorOfOursPassToo) {
  struct OutOfMemory : DataSource {
    OutOfMemory() { size_ = 1, spec_.input_shape = {1}, spec_.classes = 2; }
    void fill(std::span<const std::int64_t>, Batch&) const override { throw std::bad_alloc(); }
  };
  const OutOfMemory source;
  const SamplingPlan plan(0, 1, 1, 1);
  Loader loader(source, plan, {});
  EXPECT_THROW(loader.next(), std::bad_alloc);
}

TEST(Loader, EndsAtAnyTime) {
  const SamplingPlan plan(3, 50, 10, 1);
  const Stopwatch stopwatch;
  for (int round = 0; round < 400; ++round) {
    Numbers source(50);
    source.delay = std::chrono::milliseconds(round % 4 == 3 ? 1 : 0);
    source.failing_read = round % 5 == 4 ? round % 7 : -1;
    Loader loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 1, .depth = 1 + round % 3});
    try {
      for (int i = 0; i < round % 6; ++i) loader.next();
    } catch (const DataError&) {
    }
    if (round % 8 == 7) std::this_thread::sleep_for(1ms);
  }
  EXPECT_LT(stopwatch.seconds(), 60);
}

TEST(Loader, ReadsNoMoreThanItsDepthAhead) {
  const Numbers source(50);
  const SamplingPlan plan(3, 50, 10, 1);
  Loader loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 1, .depth = 3});
  for (std::int64_t returned = 0; returned < 20; ++returned) {
    const Stopwatch stopwatch;
    while (source.reads < returned + 3 && stopwatch.seconds() < 10) std::this_thread::sleep_for(100us);
    std::this_thread::sleep_for(1ms);
    EXPECT_EQ(source.reads, returned + 3) << "it reads ahead, and waits";
    loader.next();
  }
}

TEST(Loader, ABatchStaysUntilTheNextCall) {
  const Numbers source(1000);
  const SamplingPlan plan(3, 1000, 10, 1);
  for (const int depth : {1, 2}) {
    Loader loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 1, .depth = depth});
    for (std::int64_t step = 0; step < 20; ++step) {
      const Batch& batch = loader.next();
      std::this_thread::sleep_for(2ms);
      EXPECT_EQ(batch.inputs, as_floats(plan.select(step, 0).examples));
    }
  }
}

TEST(Loader, WaitsForALimitedTime) {
  struct Gated : Numbers {
    Gated() : Numbers(50) {}
    mutable std::atomic<bool> open = false;
    void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
      while (!open) std::this_thread::sleep_for(100us);
      Numbers::fill(examples, batch);
    }
  };
  const Gated source;
  const SamplingPlan plan(3, 50, 10, 1);
  Loader loader(source, plan, {});
  EXPECT_FALSE(loader.ready_within(5ms));
  EXPECT_GE(loader.waited_seconds(), 0.005);
  source.open = true;
  EXPECT_TRUE(loader.ready_within(60s));
  EXPECT_EQ(loader.next().inputs, as_floats(plan.select(0, 0).examples));
}

TEST(Loader, TellsHowLongItWasWaitedFor) {
  Numbers source(50);
  source.delay = 30ms;
  const SamplingPlan plan(3, 50, 10, 1);
  const Stopwatch stopwatch;
  Loader loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 1, .depth = 1});
  EXPECT_EQ(loader.waited_seconds(), 0);
  double inside = 0.0;
  for (int i = 0; i < 4; ++i) {
    const Stopwatch call;
    loader.next();
    inside += call.seconds();
  }
  // Four reads one after the other take 120 ms, all of it waiting but for what this thread spends elsewhere.
  const double elsewhere = stopwatch.seconds() - inside;
  EXPECT_LE(loader.waited_seconds(), inside);
  EXPECT_GE(loader.waited_seconds(), 0.5 * (0.120 - elsewhere));

  const double before = loader.waited_seconds();
  const Stopwatch patience;
  while (source.reads < 5 && patience.seconds() < 10) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(1s);
  loader.next();
  EXPECT_LT(loader.waited_seconds() - before, 0.030) << "the batch was there";
}

TEST(Loader, RefusesAnAugmentationThatDoesNotFit) {
  const Numbers source(50);
  const SamplingPlan plan(3, 50, 10, 2);
  Loader::Options options;
  options.augmentation.flip = true;
  EXPECT_THROW(Loader(source, plan, options), UserError);
  EXPECT_THROW(Loader(source, plan, {.first_step = 0, .first_shard = 1, .shard_count = 2}), InternalError);
  EXPECT_THROW(Loader(source, plan, {.first_step = 0, .first_shard = 0, .shard_count = 1, .depth = 0}), InternalError);
  EXPECT_THROW(Loader(source, SamplingPlan(3, 49, 10, 2), {}), InternalError);
}

/// Forty images of 6 x 6 with a pixel value of their own everywhere.
MemorySource images() {
  MemoryData data;
  data.spec.input_shape = {1, 6, 6};
  data.spec.classes = 40;
  for (int i = 0; i < 40 * 36; ++i) data.inputs.push_back(static_cast<float>(i + 1));
  for (int i = 0; i < 40; ++i) data.labels.push_back(i);
  return MemorySource(std::move(data));
}

/// The batches of a block of shards over steps [first, first + steps), augmented.
std::vector<Batch> augmented(const SamplingPlan& plan, std::int64_t first, std::int64_t steps,
                             std::pair<int, int> shards, std::uint64_t seed = 77) {
  static const MemorySource source = images();
  Loader::Options options{.first_step = first, .first_shard = shards.first, .shard_count = shards.second};
  options.augmentation = {.crop_padding = 2, .flip = true};
  options.seed = seed;
  Loader loader(source, plan, options);
  std::vector<Batch> batches;
  for (std::int64_t i = 0; i < steps * shards.second; ++i) batches.push_back(loader.next());
  return batches;
}

TEST(Loader, AugmentsAlikeForAnyDealingOfShardsAndAfterResuming) {
  const SamplingPlan plan(5, 40, 16, 4);
  const std::vector<Batch> all = augmented(plan, 0, 12, {0, 4});
  for (const int per_rank : {1, 2})
    for (int first = 0; first < 4; first += per_rank) {
      const std::vector<Batch> own = augmented(plan, 0, 12, {first, per_rank});
      for (std::size_t i = 0; i < own.size(); ++i) {
        const std::size_t same = i / static_cast<std::size_t>(per_rank) * 4 + static_cast<std::size_t>(first) +
                                 i % static_cast<std::size_t>(per_rank);
        EXPECT_EQ(own[i].inputs, all[same].inputs);
        EXPECT_EQ(own[i].labels, all[same].labels);
      }
    }
  const std::vector<Batch> resumed = augmented(plan, 7, 5, {0, 4});
  for (std::size_t i = 0; i < resumed.size(); ++i) EXPECT_EQ(resumed[i].inputs, all[7 * 4 + i].inputs);
}

TEST(Loader, AugmentsAlikeForAnyBatchSize) {
  // Example k of the run is the same for every batch size, and so is its epoch.
  const auto joined = [](std::int64_t batch, std::int64_t steps) {
    std::vector<float> inputs;
    for (const Batch& part : augmented(SamplingPlan(5, 40, batch, 1), 0, steps, {0, 1}))
      inputs.insert(inputs.end(), part.inputs.begin(), part.inputs.end());
    return inputs;
  };
  const std::vector<float> expected = joined(8, 30);
  EXPECT_EQ(joined(16, 15), expected);
  EXPECT_EQ(joined(120, 2), expected);
}

TEST(Loader, AnotherSeedAugmentsInAnotherWay) {
  const SamplingPlan plan(5, 40, 40, 1);
  EXPECT_NE(augmented(plan, 0, 1, {0, 1}, 77)[0].inputs, augmented(plan, 0, 1, {0, 1}, 78)[0].inputs);
}

TEST(Loader, AugmentsAnExampleAnewEveryEpoch) {
  const SamplingPlan plan(5, 40, 40, 1);
  std::vector<std::vector<float>> of_epoch;
  for (const Batch& batch : augmented(plan, 0, 8, {0, 1})) {
    const auto place = std::ranges::find(batch.labels, 17) - batch.labels.begin();
    of_epoch.emplace_back(batch.inputs.begin() + place * 36, batch.inputs.begin() + (place + 1) * 36);
  }
  std::ranges::sort(of_epoch);
  const auto rest = std::ranges::unique(of_epoch);
  // Fifty equally likely changes: that 8 draws show fewer than 4 has probability below 1e-5.
  EXPECT_GE(of_epoch.size() - rest.size(), 4U);
}

}  // namespace
}  // namespace credence
