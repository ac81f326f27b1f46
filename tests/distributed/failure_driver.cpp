// One way to fail: failure_driver SCENARIO TIMEOUT_SECONDS. Rank 1 misbehaves; failures_test.py looks at the outcome.
#include <fcntl.h>
#include <fmt/core.h>
#include <mpi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "credence/base/context.h"
#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"

namespace credence {
namespace {

struct Scene {
  MpiSession& session;
  Communicator& world;
  MpiOptions options;
  bool culprit = false;

  void reduce(std::int64_t count = 250'000) {
    std::vector<float> values(static_cast<std::size_t>(count), 1.0F);
    world.all_reduce(Buffer{values.data(), count}, Reduction::sum).wait();
  }
};

void sleep_long() {
  std::this_thread::sleep_for(std::chrono::seconds(60));
}

void stop_one(Scene& scene) {
  for (int step = 0;; ++step) {
    if (scene.culprit && step == 3) std::raise(SIGSTOP);
    scene.reduce();
  }
}

/// Several all-reduces in flight, as in a backward pass, when rank 1 throws out of it.
void fail_in_backward(Scene& scene) {
  std::vector<std::vector<float>> values(6, std::vector<float>(500'000, 1.0F));
  std::vector<Pending> pending;
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (scene.culprit && k == 3) throw UserError("no such option");
    pending.push_back(scene.world.all_reduce(Buffer{values[k].data(), 500'000}, Reduction::sum));
  }
  for (Pending& one : pending) one.wait();
}

void other_operation(Scene& scene) {
  std::vector<float> values(100'000, 1.0F);
  if (scene.culprit) {
    scene.world.broadcast(Buffer{values.data(), 100'000}, 0).wait();
  } else {
    scene.reduce(100'000);
  }
}

void leave_early(Scene& scene) {
  if (scene.culprit) leave(scene.session, 0);
  scene.reduce();
}

void agree_to_fail(Scene& scene) {
  collectively(scene.world, [&] { require(!scene.culprit, "no such option"); });
}

void stop_at_the_end(Scene& scene) {
  scene.reduce();
  if (scene.culprit) std::raise(SIGSTOP);
}

/// Computes for three timeouts and answers meanwhile.
void work(Scene& scene) {
  const Stopwatch stopwatch;
  while (stopwatch.seconds() < 3.0 * scene.options.timeout_seconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    scene.world.progress();
  }
}

void work_first(Scene& scene) {
  if (scene.culprit) work(scene);
  scene.reduce();
}

/// Likewise on a thread of its own, where the work itself cannot answer.
void work_aside_first(Scene& scene) {
  collectively(scene.world, [&] {
    const auto work = [&] {
      std::this_thread::sleep_for(std::chrono::duration<double>(3.0 * scene.options.timeout_seconds));
    };
    if (scene.culprit) work_aside(scene.world, work);
  });
}

/// Rank 1 hangs while its progress thread still has something to do.
void hang_beside_thread(Scene& scene) {
  const auto other = make_mpi_communicator(scene.session, scene.options);
  std::vector<float> values(100'000, 1.0F);
  Pending pending = (scene.culprit ? scene.world : *other).all_reduce(Buffer{values.data(), 100'000}, Reduction::sum);
  if (scene.culprit) sleep_long();
  pending.wait();
}

const std::map<std::string, void (*)(Scene&)> kScenes{
    {"done", [](Scene& scene) { scene.reduce(); }},
    {"stopped", [](Scene& scene) { scene.reduce(); }},
    {"stop", stop_one},
    {"stop-fast", stop_one},
    {"stop-thread", stop_one},
    {"stop-at-the-end", stop_at_the_end},
    {"never-starts", [](Scene&) {}},
    {"stop-at-the-start", [](Scene&) {}},
    {"works", work_first},
    {"works-aside", work_aside_first},
    {"works-thread", work_first},
    {"works-at-the-end",
     [](Scene& scene) {
       if (scene.culprit) work(scene);
     }},
    {"hangs-thread", hang_beside_thread},
    {"never-comes", [](Scene& scene) { scene.culprit ? sleep_long() : scene.reduce(); }},
    {"other-operation", other_operation},
    {"other-count", [](Scene& scene) { scene.reduce(scene.culprit ? 999 : 1000); }},
    {"leave-early", leave_early},
    {"user-error",
     [](Scene& scene) {
       if (scene.culprit) throw UserError("no such option");
       scene.reduce();
     }},
    {"user-error-in-backward", fail_in_backward},
    {"agreed-error", agree_to_fail},
    {"kill",
     [](Scene& scene) {
       if (scene.culprit) std::raise(SIGKILL);
       scene.reduce();
     }},
    {"exit",
     [](Scene& scene) {
       if (scene.culprit) _exit(3);
       scene.reduce();
     }},
};

int run(MpiSession& session, const std::string& name, double timeout_seconds, std::string& why) {
  try {
    MpiOptions options;
    options.timeout_seconds = timeout_seconds;
    options.order = name == "stop-fast" ? ReductionOrder::fast : ReductionOrder::tree;
    options.progress_thread = name.ends_with("-thread");
    const auto world = make_mpi_communicator(session, options);
    Scene scene{session, *world, options, session.rank() == 1};
    scene.reduce();
    kScenes.at(name)(scene);
    return name == "stopped" ? 75 : 0;
  } catch (const Error& error) {
    const Origin* origin = origin_of(error);
    why = origin == nullptr ? error.what() : fmt::format("rank {} on {}: {}", origin->rank, origin->host, error.what());
    return static_cast<int>(error.code());
  }
}

}  // namespace

int exit_code_file = -1;

/// Opens this rank's file in the folder CREDENCE_EXIT_CODES for its exit code.
void open_exit_code_file() {
  const char* folder = std::getenv("CREDENCE_EXIT_CODES");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (folder == nullptr || rank == nullptr) return;
  exit_code_file = open((std::string(folder) + "/" + rank).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
}

/// Writes this rank's exit code at the very end, in one call: mpirun kills what outlives the first ranks, so no process
/// around this one could, and anything longer would often be cut off.
void record_exit(int code) {
  if (exit_code_file < 0) return;
  const std::string text = std::to_string(code);
  const auto written = pwrite(exit_code_file, text.data(), text.size(), 0);
  if (written < 0) exit_code_file = -1;
}

}  // namespace credence

// In place of the C library's, for the code linked into this program.
extern "C" [[noreturn]] void _exit(int code) {
  credence::record_exit(code);
  syscall(SYS_exit_group, code);
  std::abort();
}

bool stops_at_start = false;

// In front of the library's: rank 1 stops once MPI itself is up.
extern "C" int MPI_Iallgather(const void* in, int count, MPI_Datatype type, void* out, int out_count,
                              MPI_Datatype out_type, MPI_Comm comm, MPI_Request* request) {
  int rank = 0;
  PMPI_Comm_rank(comm, &rank);
  if (stops_at_start && rank == 1) std::raise(SIGSTOP);
  return PMPI_Iallgather(in, count, type, out, out_count, out_type, comm, request);
}

int main(int argc, char** argv) {
  credence::open_exit_code_file();
  on_exit([](int code, void*) { credence::record_exit(code); }, nullptr);
  if (argc != 3) return 2;
  const std::string scenario = argv[1];
  const double timeout_seconds = std::atof(argv[2]);
  stops_at_start = scenario == "stop-at-the-start";
  const bool never_starts = scenario == "never-starts";
  const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (never_starts && rank != nullptr && rank == std::string("1")) credence::sleep_long();
  std::optional<credence::MpiSession> started;
  try {
    started.emplace(argc, argv, (stops_at_start || never_starts ? 2.0 : 30.0) * timeout_seconds);
  } catch (const credence::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    _exit(static_cast<int>(error.code()));
  }
  credence::MpiSession& session = *started;
  std::string why;
  const int code = credence::run(session, scenario, timeout_seconds, why);
  if (!why.empty()) fmt::print(stderr, "[rank {}] {}\n", session.rank(), why);
  credence::leave(session, code, why);
}
