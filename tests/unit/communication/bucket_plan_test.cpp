#include <gmock/gmock.h>

#include <random>
#include <vector>

#include "credence/communication/bucket_reducer.h"
#include "credence/communication/factory.h"

namespace credence::testing {
namespace {

struct Arena {
  std::vector<std::int64_t> offsets;
  std::int64_t elements = 0;
};

Arena random_arena(std::mt19937& generator) {
  std::uniform_int_distribution<int> slots(1, 40);
  std::uniform_int_distribution<int> magnitude(0, 5);
  Arena arena;
  for (int slot = slots(generator); slot > 0; --slot) {
    arena.offsets.push_back(arena.elements);
    arena.elements +=
        std::uniform_int_distribution<std::int64_t>(0, std::int64_t{1} << (3 * magnitude(generator)))(generator);
  }
  return arena;
}

TEST(PlanBuckets, CoversEverySlotOnceInReverseOrderWithinTheLimit) {
  std::mt19937 generator(7);
  for (int trial = 0; trial < 500; ++trial) {
    const Arena arena = random_arena(generator);
    const std::size_t element_bytes = trial % 2 == 0 ? 4 : 8;
    const std::size_t limit = std::uniform_int_distribution<std::size_t>(1, 40'000)(generator);
    const auto buckets = plan_buckets(arena.offsets, arena.elements, element_bytes, {limit});
    std::int64_t end = arena.elements;
    int last_slot = static_cast<int>(arena.offsets.size());
    for (const Bucket& bucket : buckets) {
      EXPECT_EQ(bucket.end, end);
      EXPECT_EQ(bucket.last_slot, last_slot);
      ASSERT_LT(bucket.first_slot, bucket.last_slot);
      EXPECT_EQ(bucket.begin, arena.offsets[static_cast<std::size_t>(bucket.first_slot)]);
      const auto bytes = static_cast<std::size_t>(bucket.end - bucket.begin) * element_bytes;
      EXPECT_TRUE(bytes <= limit || bucket.last_slot - bucket.first_slot == 1) << bytes << " of " << limit;
      end = bucket.begin;
      last_slot = bucket.first_slot;
    }
    EXPECT_EQ(end, arena.offsets.front());
    EXPECT_EQ(last_slot, 0);
  }
}

TEST(PlanBuckets, FillsBucketsAsFarAsTheyGo) {
  // 4-byte elements, 40 bytes a bucket: 4+5 elements fit together, 3 more do not; 100 are a bucket of their own.
  const auto buckets = plan_buckets(std::vector<std::int64_t>{0, 100, 103, 108}, 112, 4, {40});
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[0].begin, 103);
  EXPECT_EQ(buckets[1].begin, 100);
  EXPECT_EQ(buckets[2].begin, 0);
  EXPECT_EQ(plan_buckets(std::vector<std::int64_t>{0, 100, 103, 108}, 112, 4, {1'000'000}).size(), 1U);
}

TEST(PlanBuckets, LeavesLargeSlotsAlone) {
  // 40 bytes a bucket, alone from 20 bytes: slots of 4, 5, 3 and 2 elements.
  const auto buckets = plan_buckets(std::vector<std::int64_t>{0, 4, 9, 12}, 14, 4, {40, 20});
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[0].first_slot, 2);
  EXPECT_EQ(buckets[1].first_slot, 1);
  EXPECT_EQ(buckets[2].first_slot, 0);
}

TEST(PlanBuckets, NoSlotsAreNoBuckets) {
  EXPECT_TRUE(plan_buckets({}, 0, 4, {100}).empty());
}

TEST(PlanBuckets, RefusesWhatIsNoArena) {
  EXPECT_THROW(plan_buckets(std::vector<std::int64_t>{5, 3}, 10, 4, {100}), InternalError);
  EXPECT_THROW(plan_buckets(std::vector<std::int64_t>{0, 11}, 10, 4, {100}), InternalError);
  EXPECT_THROW(plan_buckets(std::vector<std::int64_t>{0}, 10, 4, {0}), InternalError);
}

TEST(BucketReducerMisuse, IsAnInternalError) {
  const auto self = make_self_communicator();
  EXPECT_THROW(BucketReducer(*self, {{0, 5, 0, 1}}, 2), InternalError);                // slot 1 in no bucket
  EXPECT_THROW(BucketReducer(*self, {{0, 5, 0, 2}, {5, 9, 1, 2}}, 2), InternalError);  // slot 1 in two
  BucketReducer reducer(*self, {{5, 9, 1, 2}, {0, 5, 0, 1}}, 2);
  EXPECT_THROW(reducer.ready(0), InternalError);  // not armed
  EXPECT_THROW(reducer.finish(), InternalError);
  std::vector<float> values(9, 1.0F);
  const Buffer enough[] = {{values.data(), 9}};
  const Buffer short_by_one[] = {{values.data(), 8}};
  EXPECT_THROW(reducer.arm(short_by_one), InternalError);
  reducer.arm(enough);
  EXPECT_THROW(reducer.arm(enough), InternalError);
  reducer.ready(1);
  EXPECT_THROW(reducer.ready(1), InternalError);
  EXPECT_THROW(reducer.ready(2), InternalError);
  reducer.ready(0);
  reducer.finish();
}

TEST(BucketReducerMisuse, AFailedStepLeavesNothingInFlight) {
  const auto self = make_self_communicator();
  BucketReducer reducer(*self, {{5, 9, 1, 2}, {0, 5, 0, 1}}, 2);
  std::vector<float> values(9, 1.0F);
  const Buffer arrays[] = {{values.data(), 9}};
  reducer.arm(arrays);
  reducer.ready(1);  // its bucket has left
  EXPECT_THROW(reducer.finish(), InternalError);
  reducer.arm(arrays);
  reducer.ready(1);
  reducer.ready(0);
  reducer.finish();
  EXPECT_EQ(self->traffic().operations, 3);
}

}  // namespace
}  // namespace credence::testing
