#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"
#include "credence/communication/mpi_state.h"
#include "support/communicator_laws.h"
#include "support/faulty_communicator.h"
#include "support/mpi_test.h"

namespace {

// What really goes to MPI, counted by its profiling interface: the definitions below stand in front of the library's.
std::int64_t sent_bytes = 0;
int library_reductions = 0;
bool completes_backwards = false;  // MPI_Testsome finds many requests complete, the last first

}  // namespace

extern "C" int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
                         MPI_Request* request) {
  int size = 0;
  PMPI_Type_size(type, &size);
  sent_bytes += static_cast<std::int64_t>(count) * size;
  return PMPI_Isend(data, count, type, to, tag, comm, request);
}

extern "C" int MPI_Iallreduce(const void* in, void* out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                              MPI_Request* request) {
  ++library_reductions;
  return PMPI_Iallreduce(in, out, count, type, op, comm, request);
}

extern "C" int MPI_Testsome(int count, MPI_Request requests[], int* completed, int indices[], MPI_Status statuses[]) {
  if (completes_backwards) {
    const credence::Stopwatch stopwatch;
    for (int done = 0; done < count && stopwatch.seconds() < 0.01;) {
      done = 0;
      for (int i = 0; i < count; ++i) {
        int one = 0;
        PMPI_Request_get_status(requests[i], &one, MPI_STATUS_IGNORE);
        done += one;
      }
    }
  }
  const int code = PMPI_Testsome(count, requests, completed, indices, statuses);
  if (completes_backwards && *completed > 1) {
    std::reverse(indices, indices + *completed);
    std::reverse(statuses, statuses + *completed);
  }
  return code;
}

namespace credence::testing {
namespace {

MpiOptions options(ReductionOrder order) {
  MpiOptions result;
  result.order = order;
  result.timeout_seconds = 30.0;
  return result;
}

std::unique_ptr<Communicator> tree() {
  return make_mpi_communicator(mpi_session(), options(ReductionOrder::tree));
}

std::unique_ptr<Communicator> tree_with_thread() {
  MpiOptions with_thread = options(ReductionOrder::tree);
  with_thread.progress_thread = true;
  return make_mpi_communicator(mpi_session(), with_thread);
}

std::unique_ptr<Communicator> tree_with_few_tags() {
  MpiOptions few = options(ReductionOrder::tree);
  few.tag_window = 16;
  return make_mpi_communicator(mpi_session(), few);
}

std::unique_ptr<Communicator> fast() {
  return make_mpi_communicator(mpi_session(), options(ReductionOrder::fast));
}

/// A communicator that owns what it wraps.
struct Owned {
  std::unique_ptr<Communicator> inner = tree();
};
class Delayed final : private Owned, public FaultyCommunicator {
 public:
  Delayed() : FaultyCommunicator(*inner, {delay()}) {}

 private:
  static Fault delay() {
    Fault fault;
    fault.rank = 0;
    fault.seconds = 1e-4;
    return fault;
  }
};

INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorLaws,
                         ::testing::Values(Backend{"Tree", tree, true},
                                           Backend{"TreeWithThread", tree_with_thread, true},
                                           Backend{"TreeWithFewTags", tree_with_few_tags, true}, Backend{"Fast", fast},
                                           Backend{"Delayed", [] { return std::make_unique<Delayed>(); }, true}),
                         backend_name);

TEST(MpiSession, KnowsWhereItRuns) {
  const MpiSession& session = mpi_session();
  EXPECT_GE(session.rank(), 0);
  EXPECT_LT(session.rank(), session.size());
  // One machine here, so all ranks are local.
  EXPECT_EQ(session.local_rank(), session.rank());
  EXPECT_EQ(session.local_size(), session.size());
  EXPECT_NE(session.library_version(), "");
  const char* launched = std::getenv("OMPI_COMM_WORLD_SIZE");
  EXPECT_EQ(launched == nullptr ? 1 : std::atoi(launched), session.size());
}

TEST(MpiCommunicator, ScalarsGoInOneExchangeAndSayWhatTheySend) {
  const auto world = tree();
  std::vector<double> scalars(8, 1.0);
  world->all_reduce(whole(scalars), Reduction::sum).wait();
  EXPECT_EQ(world->traffic().bytes_sent, 64 * (world->size() - 1));
}

TEST(MpiCommunicator, PiecesKeepTheirPlacesWhateverCompletesFirst) {
  completes_backwards = true;
  const auto world = tree();
  const std::int64_t count = 5'000'001;
  for (int root = 0; root < world->size(); ++root) {
    std::vector<float> values = counted<float>(world->rank() == root ? 7 : 0, count);
    world->broadcast(whole(values), root).wait();
    EXPECT_TRUE(values == counted<float>(7, count)) << "broadcast from " << root;
  }
  std::vector<float> values = counted<float>(world->rank(), count);
  world->all_reduce(whole(values), Reduction::sum).wait();
  EXPECT_TRUE(values == counted_sum<float>(world->size(), count)) << "all-reduce";
  completes_backwards = false;
}

TEST(MpiCommunicator, TrafficIsWhatMpiWasGiven) {
  // The library's own all-reduce can have the same bits: here it shows.
  const auto world = tree();
  std::vector<float> values(static_cast<std::size_t>(world->size()) * 300'000, 1.0F);
  world->barrier();
  const std::int64_t counted = world->traffic().bytes_sent;
  const std::int64_t given = sent_bytes;
  const int reductions = library_reductions;
  world->all_reduce(whole(values), Reduction::sum).wait();
  world->broadcast(Buffer{values.data(), 1000}, 0).wait();
  EXPECT_EQ(world->traffic().bytes_sent - counted, sent_bytes - given);
  EXPECT_GE(sent_bytes - given, 2 * (world->size() - 1) * 1'200'000);
  EXPECT_EQ(library_reductions, reductions);
}

TEST(MpiCommunicator, DeviceMemoryNeedsNccl) {
  const auto world = tree();
  Buffer buffer{nullptr, 0, DType::float32, Device::cuda};
  if (world->size() > 1) {
    EXPECT_THROW(static_cast<void>(world->all_reduce(buffer, Reduction::sum)), UserError);
  } else {
    world->all_reduce(buffer, Reduction::sum).wait();
  }
}

TEST(MpiCommunicator, WaitingIsCounted) {
  // Against the instants at which ranks enter and leave, whatever the scheduler does in between. Half of what rank 0 is
  // late is asked for: a rank may be held up between its entry and the start of its wait.
  constexpr int kRounds = 5;
  const auto world = tree();
  double inside = 0.0;
  double late = 0.0;
  const double before = world->traffic().waited_seconds;
  double elsewhere = 0.0;
  for (int round = 0; round < kRounds; ++round) {
    if (world->rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::int64_t entered = steady_instant();
    world->barrier();
    inside += 1e-9 * static_cast<double>(steady_instant() - entered);
    const double so_far = world->traffic().waited_seconds;
    std::vector<std::int64_t> of_rank_0{entered};
    world->broadcast(whole(of_rank_0), 0).wait();
    late += 1e-9 * static_cast<double>(std::max<std::int64_t>(of_rank_0[0] - entered, 0));
    elsewhere += world->traffic().waited_seconds - so_far;
  }
  const double waited = world->traffic().waited_seconds - before - elsewhere;
  EXPECT_LE(waited, inside);
  EXPECT_GE(waited, 0.5 * late);
  if (world->rank() != 0) {
    EXPECT_GT(late, 0.0);
  }
}

TEST(MpiCommunicator, AnErrorOfALostRankIsAnErrorOnEveryRank) {
  const auto inner = tree();
  Fault lost;
  lost.kind = Fault::Kind::lost;
  lost.rank = 0;
  lost.step = 3;
  FaultyCommunicator world(*inner, {lost}, 0.05);
  std::vector<float> values(100, 1.0F);
  for (int step = 0; step < 4; ++step) {
    world.set_step(step);
    Pending pending = world.all_reduce(whole(values), Reduction::sum);
    if (step < 3) {
      EXPECT_NO_THROW(pending.wait());
    } else {
      EXPECT_THROW(pending.wait(), CommunicationError);
    }
  }
}

}  // namespace
}  // namespace credence::testing
