// Milliseconds of one all-reduce of float32: this framework's tree, its `fast` order, and the library's blocking
// MPI_Allreduce, on the ranks that it is started with. Medians; the calls take turns, so that all see the same machine.
#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"

namespace credence {
namespace {

/// Of the slowest rank, since a step waits for it.
double seconds_of(Communicator& world, const std::function<void()>& call) {
  world.barrier();
  const Stopwatch stopwatch;
  call();
  std::vector<double> seconds{stopwatch.seconds()};
  world.all_reduce(Buffer{seconds.data(), 1, DType::float64}, Reduction::max).wait();
  return seconds[0];
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void large(Communicator& tree, Communicator& fast) {
  for (const double megabytes : {0.25, 1.0, 10.0, 100.0}) {
    const auto count = static_cast<std::int64_t>(megabytes * 1e6 / sizeof(float));
    std::vector<float> values(static_cast<std::size_t>(count), 0.0F);  // stays zero, however often it is summed
    const Buffer buffer{values.data(), count};
    const std::function<void()> calls[] = {[&] { tree.all_reduce(buffer, Reduction::sum).wait(); },
                                           [&] { fast.all_reduce(buffer, Reduction::sum).wait(); },
                                           [&] {
                                             MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(count),
                                                           MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
                                           }};
    const int repetitions = megabytes > 50.0 ? 21 : 101;
    std::vector<double> seconds[3];
    for (int repetition = 0; repetition < repetitions; ++repetition) {
      for (std::size_t k = 0; k < 3; ++k) seconds[k].push_back(seconds_of(tree, calls[k]));
    }
    if (tree.rank() == 0) {
      fmt::print("{:8.2f} MB {:10.3f} {:10.3f} {:14.3f}\n", megabytes, 1e3 * median(seconds[0]),
                 1e3 * median(seconds[1]), 1e3 * median(seconds[2]));
    }
  }
}

void small(Communicator& tree, Communicator& fast) {
  constexpr int kCalls = 2000;
  std::vector<double> values(8, 0.0);
  const Buffer buffer{values.data(), 8, DType::float64};
  const auto microseconds = [&](const std::function<void()>& call) {
    return 1e6 / kCalls * seconds_of(tree, [&] {
             for (int k = 0; k < kCalls; ++k) call();
           });
  };
  const double ours = microseconds([&] { tree.all_reduce(buffer, Reduction::sum).wait(); });
  const double theirs = microseconds([&] { fast.all_reduce(buffer, Reduction::sum).wait(); });
  const double blocking =
      microseconds([&] { MPI_Allreduce(MPI_IN_PLACE, values.data(), 8, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD); });
  if (tree.rank() == 0) fmt::print("8 doubles   {:7.2f} us {:7.2f} us {:11.2f} us\n", ours, theirs, blocking);
}

int run(MpiSession& session) {
  MpiOptions options;
  const auto tree = make_mpi_communicator(session, options);
  options.order = ReductionOrder::fast;
  const auto fast = make_mpi_communicator(session, options);
  if (session.rank() == 0) {
    fmt::print("{} ranks, {}, ms\n                  tree       fast  MPI_Allreduce\n", session.size(),
               session.library_version());
  }
  large(*tree, *fast);
  small(*tree, *fast);
  return 0;
}

}  // namespace
}  // namespace credence

int main(int argc, char** argv) {
  credence::MpiSession session(argc, argv);
  std::string why;
  int code = 0;
  try {
    code = credence::run(session);
  } catch (const credence::Error& error) {
    why = error.what();
    fmt::print(stderr, "{}\n", why);
    code = static_cast<int>(error.code());
  }
  credence::leave(session, code, why);
}
