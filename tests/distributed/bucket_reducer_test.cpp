#include "credence/communication/bucket_reducer.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>

#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"
#include "support/contributions.h"
#include "support/faulty_communicator.h"
#include "support/mpi_test.h"

namespace credence::testing {
namespace {

std::unique_ptr<Communicator> tree() {
  MpiOptions options;
  options.timeout_seconds = 30.0;
  return make_mpi_communicator(mpi_session(), options);
}

/// Slots of very different sizes, one of them larger than a bucket, one empty.
const std::vector<std::int64_t> kOffsets{0, 10, 11, 5000, 5000, 305'000, 305'100, 310'000};
constexpr std::int64_t kElements = 320'003;
constexpr std::size_t kBucketBytes = 40'000;

std::vector<Bucket> buckets() {
  return plan_buckets(kOffsets, kElements, sizeof(float), {kBucketBytes});
}

std::vector<int> shuffled_slots(unsigned seed) {
  std::vector<int> order(kOffsets.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  return order;
}

TEST(BucketReducer, SumsWhateverTheOrderOfSlotsOnEachRank) {
  const auto world = tree();
  BucketReducer reducer(*world, buckets(), static_cast<int>(kOffsets.size()));
  EXPECT_GT(reducer.buckets().size(), 3U);
  for (unsigned round = 0; round < 8; ++round) {
    std::vector<float> means = rough<float>(world->rank(), kElements);
    std::vector<float> scales = counted<float>(world->rank(), kElements);
    const Buffer arrays[] = {whole(means), whole(scales)};
    reducer.arm(arrays);
    for (const int slot : shuffled_slots(round * 17 + static_cast<unsigned>(world->rank()))) reducer.ready(slot);
    reducer.finish();
    EXPECT_TRUE(same_bits(means, tree_sum_of_ranks<float>(0, world->size(), kElements))) << round;
    EXPECT_TRUE(scales == counted_sum<float>(world->size(), kElements)) << round;
  }
}

TEST(BucketReducer, SumsASlotThatLiesElsewhere) {
  const auto world = tree();
  BucketReducer reducer(*world, plan_buckets(std::vector<std::int64_t>{0, 10, 500}, 600, 4, {4000, 1000}), 3);
  ASSERT_EQ(reducer.buckets().size(), 3U);
  std::vector<float> arena = counted<float>(world->rank(), 600), own = rough<float>(world->rank(), 487);
  std::vector<float> scales = counted<float>(world->rank(), 600);
  const Buffer arrays[] = {whole(arena), whole(scales)};
  reducer.arm(arrays);
  reducer.ready(1, whole(own));
  reducer.ready(2);
  reducer.ready(0);
  reducer.finish();
  EXPECT_TRUE(same_bits(own, tree_sum_of_ranks<float>(0, world->size(), 487)));
  EXPECT_TRUE(scales == counted_sum<float>(world->size(), 600));
  std::vector<float> expected = counted_sum<float>(world->size(), 600);
  const std::vector<float> untouched = counted<float>(world->rank(), 600);
  std::copy(untouched.begin() + 10, untouched.begin() + 500, expected.begin() + 10);
  EXPECT_TRUE(arena == expected);
}

TEST(BucketReducer, ScattersWhatEachRankNeedsAPartOf) {
  const auto world = tree();
  const int size = world->size();
  std::vector<Bucket> buckets = plan_buckets(std::vector<std::int64_t>{0, 1000}, 3000, 4, {4000});
  ASSERT_EQ(buckets.size(), 2U);
  buckets[0].scattered = 400 * size;  // elements [1000, 3000): of the others everybody receives all
  BucketReducer reducer(*world, buckets, 2);
  for (const bool is_elsewhere : {false, true}) {
    std::vector<float> arena = rough<float>(world->rank(), 3000), scales = counted<float>(world->rank(), 3000);
    std::vector<float> own(arena.begin() + 1000, arena.end());
    const Buffer arrays[] = {whole(arena), whole(scales)};
    reducer.arm(arrays);
    reducer.ready(0);
    reducer.ready(1, is_elsewhere ? std::optional(whole(own)) : std::nullopt);
    reducer.finish();
    if (is_elsewhere) std::copy(own.begin(), own.end(), arena.begin() + 1000);
    const std::vector<float> sum = tree_sum_of_ranks<float>(0, size, 3000);
    const std::vector<float> scale_sum = counted_sum<float>(size, 3000);
    for (const auto& [begin, end] : {std::pair{0, 1000},
                                     {1000 + 400 * world->rank(), 1000 + 400 * (world->rank() + 1)},
                                     {1000 + 400 * size, 3000}}) {
      EXPECT_TRUE(std::equal(arena.begin() + begin, arena.begin() + end, sum.begin() + begin)) << begin;
      EXPECT_TRUE(std::equal(scales.begin() + begin, scales.begin() + end, scale_sum.begin() + begin)) << begin;
    }
  }
}

TEST(BucketReducer, SendsTheBytesOfOneAllReduce) {
  const auto world = tree();
  const std::int64_t slot = 1000 * world->size();
  std::vector<std::int64_t> offsets;
  for (int k = 0; k < 20; ++k) offsets.push_back(k * slot);
  const std::int64_t elements = 20 * slot;
  BucketReducer reducer(*world, plan_buckets(offsets, elements, 4, {static_cast<std::size_t>(3 * slot * 4)}), 20);
  std::vector<float> values(static_cast<std::size_t>(elements), 1.0F);
  const Buffer arrays[] = {whole(values)};
  reducer.arm(arrays);
  for (int k = 19; k >= 0; --k) reducer.ready(k);
  reducer.finish();
  EXPECT_EQ(world->traffic().bytes_sent, 2 * (world->size() - 1) * (elements * 4 / world->size()));
  EXPECT_EQ(world->traffic().operations, 7);
  EXPECT_THAT(values, ::testing::Each(static_cast<float>(world->size())));
}

TEST(BucketReducer, StartsABucketAsSoonAsItAndThoseBeforeItAreComplete) {
  const auto world = tree();
  BucketReducer reducer(*world, plan_buckets(std::vector<std::int64_t>{0, 10, 20}, 30, 4, {40}), 3);
  std::vector<float> values(30, 1.0F);
  const Buffer arrays[] = {whole(values)};
  reducer.arm(arrays);
  reducer.ready(1);  // bucket 1 waits for bucket 0, which is slot 2
  EXPECT_EQ(world->traffic().operations, 0);
  reducer.ready(2);
  EXPECT_EQ(world->traffic().operations, 2);
  reducer.ready(0);
  EXPECT_EQ(world->traffic().operations, 3);
  reducer.finish();
  EXPECT_THAT(values, ::testing::Each(static_cast<float>(world->size())));
}

TEST(BucketReducer, ASlotThatIsNeverReadyIsNamed) {
  const auto world = tree();
  BucketReducer reducer(*world, buckets(), static_cast<int>(kOffsets.size()));
  std::vector<float> values(static_cast<std::size_t>(kElements), 1.0F);
  const Buffer arrays[] = {whole(values)};
  reducer.arm(arrays);
  for (const int slot : {0, 1, 2, 3, 4, 5, 6}) reducer.ready(slot);  // 7 is in the first bucket: nothing has left
  try {
    reducer.finish();
    ADD_FAILURE() << "nothing thrown";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("slot 7 was never ready"));
  }
  // The next step works.
  reducer.arm(arrays);
  for (const int slot : shuffled_slots(3)) reducer.ready(slot);
  reducer.finish();
  EXPECT_THAT(values, ::testing::Each(static_cast<float>(world->size())));
}

/// Backward work of `work_seconds` a slot on a link that needs `link_seconds` a bucket; seconds of the whole step.
double step_seconds(bool overlapped, double work_seconds, double link_seconds) {
  constexpr int kSlots = 10;
  constexpr std::int64_t kSlot = 1000;
  const auto inner = tree();
  Fault slow;
  slow.kind = Fault::Kind::link;
  slow.seconds = link_seconds;
  FaultyCommunicator world(*inner, {slow});
  std::vector<std::int64_t> offsets;
  for (int k = 0; k < kSlots; ++k) offsets.push_back(k * kSlot);
  BucketReducer reducer(world, plan_buckets(offsets, kSlots * kSlot, 4, {kSlot * 4}), kSlots);
  std::vector<float> values(kSlots * kSlot, 1.0F);
  const Buffer arrays[] = {whole(values)};
  inner->barrier();
  const Stopwatch stopwatch;
  reducer.arm(arrays);
  for (int k = kSlots - 1; k >= 0; --k) {
    std::this_thread::sleep_for(std::chrono::duration<double>(work_seconds));
    if (overlapped) reducer.ready(k);
  }
  for (int k = kSlots - 1; k >= 0 && !overlapped; --k) reducer.ready(k);
  reducer.finish();
  const double seconds = stopwatch.seconds();
  EXPECT_THAT(values, ::testing::Each(static_cast<float>(world.size())));
  return seconds;
}

TEST(BucketReducer, HidesAtLeastHalfOfTheDelayBehindTheBackwardPass) {
  constexpr double kLinkSeconds = 0.002;
  constexpr double kBuckets = 10.0;
  double overlapped = 1e9;
  double one_after_the_other = 1e9;
  for (int repetition = 0; repetition < 20; ++repetition) {
    overlapped = std::min(overlapped, step_seconds(true, 0.003, kLinkSeconds));
    one_after_the_other = std::min(one_after_the_other, step_seconds(false, 0.003, kLinkSeconds));
  }
  EXPECT_GE(one_after_the_other - overlapped, 0.5 * kBuckets * kLinkSeconds);
}

}  // namespace
}  // namespace credence::testing
