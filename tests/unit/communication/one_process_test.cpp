// Communicators of one process: self, rehearsal; and what Pending guards.
#include <gmock/gmock.h>

#include "credence/communication/factory.h"
#include "credence/communication/reduction_plan.h"
#include "support/communicator_laws.h"

namespace credence::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(OneProcess, CommunicatorLaws,
                         ::testing::Values(Backend{"Self", make_self_communicator, true},
                                           Backend{"Rehearsal", [] { return make_rehearsal_communicator(0, 1); },
                                                   true}),
                         backend_name);

TEST(Rehearsal, OtherRanksContributeNothing) {
  const auto world = make_rehearsal_communicator(2, 4);
  EXPECT_EQ(world->rank(), 2);
  EXPECT_EQ(world->size(), 4);
  std::vector<float> values = rough<float>(2, 1000);
  const std::vector<float> before = values;
  world->all_reduce(whole(values), Reduction::sum).wait();
  EXPECT_TRUE(same_bits(values, before));
  EXPECT_FALSE(world->any(false));
  EXPECT_TRUE(world->any(true));
  EXPECT_EQ(world->broadcast_text("options", 0), "options");
  EXPECT_THAT(world->gather_texts("me"), ::testing::ElementsAre("", "", "me", ""));
  EXPECT_NO_THROW(world->agree(std::nullopt));
  EXPECT_THROW(collectively(*world, [] { throw DataError("cut"); }), DataError);
}

TEST(Rehearsal, CountsWhatItsRankWouldSend) {
  for (const int size : {2, 3, 4, 8, 64}) {
    const std::int64_t count = size * 1000;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (int rank = 0; rank < size; ++rank) {
      const auto world = make_rehearsal_communicator(rank, size);
      world->all_reduce(whole(values), Reduction::sum).wait();
      EXPECT_EQ(world->traffic().bytes_sent, 2 * (size - 1) * 4000);
    }
  }
}

TEST(Rehearsal, OfAnUnevenBufferRanksTogetherSendEveryChunkTwiceToAllOthers) {
  constexpr int kSize = 4;
  std::vector<float> values(1003);
  std::int64_t sent = 0;
  for (int rank = 0; rank < kSize; ++rank) {
    const auto world = make_rehearsal_communicator(rank, kSize);
    world->all_reduce(whole(values), Reduction::sum).wait();
    sent += world->traffic().bytes_sent;
  }
  EXPECT_EQ(sent, 2 * (kSize - 1) * 1003 * 4);
}

TEST(Rehearsal, RefusesRanksThatDoNotExist) {
  EXPECT_THROW(make_rehearsal_communicator(4, 4), UserError);
  EXPECT_THROW(make_rehearsal_communicator(-1, 4), UserError);
  EXPECT_THROW(make_rehearsal_communicator(0, 0), UserError);
}

void drop_one() {
  const auto self = make_self_communicator();
  float value = 1.0F;
  const Pending dropped = self->all_reduce(Buffer{&value, 1}, Reduction::sum);
}

void overwrite_one() {
  const auto self = make_self_communicator();
  std::vector<float> values(2);
  Pending pending = self->all_reduce(Buffer{&values[0], 1}, Reduction::sum);
  pending = self->all_reduce(Buffer{&values[1], 1}, Reduction::sum);
  pending.wait();
}

TEST(Pending, DroppedWithoutWaitingTerminates) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(drop_one(), "dropped without waiting");
  EXPECT_DEATH(overwrite_one(), "dropped without waiting");
}

TEST(Pending, MayBeDroppedWhileAnExceptionUnwinds) {
  const auto self = make_self_communicator();
  float value = 1.0F;
  const auto fail = [&] {
    const Pending dropped = self->all_reduce(Buffer{&value, 1}, Reduction::sum);
    throw UserError("something else");
  };
  EXPECT_THROW(fail(), UserError);
  // Its memory is free again.
  EXPECT_NO_THROW(self->all_reduce(Buffer{&value, 1}, Reduction::sum).wait());
}

TEST(Pending, WaitingTwiceOrForNothingIsHarmless) {
  Pending nothing;
  EXPECT_FALSE(nothing.valid());
  nothing.wait();
  const auto self = make_self_communicator();
  float value = 1.0F;
  Pending pending = self->all_reduce(Buffer{&value, 1}, Reduction::sum);
  EXPECT_TRUE(pending.valid());
  pending.wait();
  EXPECT_FALSE(pending.valid());
  pending.wait();
}

}  // namespace
}  // namespace credence::testing
