#include "support/faulty_communicator.h"

#include <gmock/gmock.h>

#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"

namespace credence::testing {
namespace {

using ::testing::HasSubstr;

class FaultyCommunicatorTest : public ::testing::Test {
 protected:
  Pending start(FaultyCommunicator& world) { return world.all_reduce(Buffer{&values_[used_++], 1}, Reduction::sum); }

  std::unique_ptr<Communicator> self_ = make_self_communicator();
  float values_[8] = {};
  std::size_t used_ = 0;
};

TEST_F(FaultyCommunicatorTest, ADelayDoesNotHoldUpTheHost) {
  constexpr double kDelay = 1.0;  // far longer than the scheduler holds anybody up
  Fault delay;
  delay.seconds = kDelay;
  FaultyCommunicator world(*self_, {delay});
  const Stopwatch stopwatch;
  Pending first = start(world);
  Pending second = start(world);
  EXPECT_LT(stopwatch.seconds(), kDelay);
  first.wait();
  EXPECT_GE(stopwatch.seconds(), kDelay);
  second.wait();
  EXPECT_LT(stopwatch.seconds(), 2 * kDelay);  // both delays ran at once
}

TEST_F(FaultyCommunicatorTest, ALinkCarriesOneAtATime) {
  Fault link;
  link.kind = Fault::Kind::link;
  link.seconds = 0.03;
  FaultyCommunicator world(*self_, {link});
  const Stopwatch stopwatch;
  Pending first = start(world);
  Pending second = start(world);
  second.wait();
  EXPECT_GE(stopwatch.seconds(), 0.06);
  first.wait();
}

TEST_F(FaultyCommunicatorTest, AnErrorStrikesTheGivenOperationOnce) {
  Fault error;
  error.kind = Fault::Kind::error;
  error.rank = 0;
  error.operation = 1;
  error.text = "unhandled system error";
  FaultyCommunicator world(*self_, {error});
  EXPECT_NO_THROW(start(world).wait());
  try {
    start(world).wait();
    ADD_FAILURE() << "nothing thrown";
  } catch (const CommunicationError& thrown) {
    EXPECT_THAT(thrown.what(), HasSubstr("all-reduce 1 of 4 bytes: unhandled system error"));
  }
  EXPECT_NO_THROW(start(world).wait());
}

TEST_F(FaultyCommunicatorTest, AnErrorOfAnotherRankIsNotOurs) {
  Fault error;
  error.kind = Fault::Kind::error;
  error.rank = 1;
  FaultyCommunicator world(*self_, {error});
  EXPECT_NO_THROW(start(world).wait());
}

TEST_F(FaultyCommunicatorTest, ALostRankIsMissedUntilTheTimeout) {
  Fault lost;
  lost.kind = Fault::Kind::lost;
  lost.rank = 3;
  lost.step = 2;
  FaultyCommunicator world(*self_, {lost}, 0.03);
  EXPECT_NO_THROW(start(world).wait());
  world.set_step(2);
  const Stopwatch stopwatch;
  try {
    start(world).wait();
    ADD_FAILURE() << "nothing thrown";
  } catch (const CommunicationError& thrown) {
    EXPECT_THAT(thrown.what(), HasSubstr("no answer from rank 3"));
  }
  EXPECT_GE(stopwatch.seconds(), 0.03);
}

TEST_F(FaultyCommunicatorTest, PassesTrafficOn) {
  const auto rehearsal = make_rehearsal_communicator(0, 2);
  FaultyCommunicator world(*rehearsal, {});
  std::vector<float> values(100);
  world.all_reduce(Buffer{values.data(), 100}, Reduction::sum).wait();
  EXPECT_EQ(world.traffic().bytes_sent, 400);
}

}  // namespace
}  // namespace credence::testing
