#include "credence/communication/mpi_session.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/communication/backoff.h"
#include "credence/communication/deadline.h"
#include "credence/communication/mpi_state.h"

namespace credence {

namespace {

// Both from the moment a rank knows of the first failure, so that all ranks end at about the same time. Open MPI's
// mpirun sends CONT when the first rank is gone, TERM a second later and KILL another second later, but each further
// rank that goes cuts these pauses short.
constexpr double kGraceSeconds = 1.5;
constexpr double kBlindGraceSeconds = 0.5;          // where a rank cannot see the others leave
constexpr std::chrono::milliseconds kLastLook{20};  // for the others to see that all have left
constexpr unsigned kFinalizeSeconds = 60;           // for MPI_Finalize to end
constexpr double kLastBarrierSeconds = 60.0;        // where no communicator set a timeout

int environment_number(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::atoi(value);
}

/// Several processes that each believe to be alone would train several times the same model.
void require_one_world(int size) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const int launched = environment_number(name);
    require(launched <= 1 || size > 1,
            "{}={} says that a launcher started {} ranks, but this MPI library sees one: start with the mpirun of the "
            "MPI that Credence was built with",
            name, launched, launched);
  }
}

/// How ranks find those on the same machine.
struct Address {
  std::array<char, 256> host{};
  std::array<char, 64> boot{};  // of the machine's kernel: hosts may have equal names
  LocalProcess process;

  bool shares_machine(const Address& other) const { return host == other.host && boot == other.boot; }
};

Address own_address() {
  Address address;
  address.process = LocalProcess::self();
  host_name().copy(address.host.data(), address.host.size() - 1);
  std::ifstream("/proc/sys/kernel/random/boot_id").getline(address.boot.data(), address.boot.size());
  return address;
}

std::vector<Address> gather_addresses(int size, double limit_seconds) {
  static_assert(std::is_trivially_copyable_v<Address>);
  const Address mine = own_address();
  std::vector<Address> all(static_cast<std::size_t>(size));
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, MPI_COMM_WORLD, &request),
            "MPI_Iallgather");
  complete_at_start(request, limit_seconds, "say on which host they are");
  return all;
}

/// Finds this rank's place among those of its machine.
void take_place(MpiSession::State& state, const std::vector<Address>& addresses) {
  const Address& mine = addresses[static_cast<std::size_t>(state.rank)];
  state.local_size = 0;
  for (int rank = 0; rank < state.size; ++rank) {
    const Address& address = addresses[static_cast<std::size_t>(rank)];
    state.hosts.emplace_back(address.host.data());
    if (!address.shares_machine(mine)) continue;
    if (rank == state.rank) state.local_rank = state.local_size;
    ++state.local_size;
    // In a container of its own a process has another number here: it is not watched.
    if (rank != state.rank && address.process.runs()) state.neighbours.emplace_back(rank, address.process);
  }
}

void flush() {
  std::cout.flush();
  std::cerr.flush();
  std::fflush(nullptr);
}

/// Barrier that ends with an explanation instead of hanging; null: everybody came, the last one at `last`.
std::optional<RankFailure> barrier(MpiSession::State& state, std::int64_t& last) {
  if (state.unsafe) return RankFailure{state.rank, static_cast<int>(ExitCode::lost_rank), "communication was given up"};
  struct Instants {
    std::int64_t mine = steady_instant();
    std::int64_t last = 0;
  };
  const auto instants = std::make_shared<Instants>();
  state.given_up.push_back(instants);  // where the barrier fails MPI may still write to it
  try {
    MPI_Request request = MPI_REQUEST_NULL;
    {
      const std::lock_guard lock(state.calls);
      state.notices.activities = {{nullptr, [] { return std::string("leaving"); }}};
      check_mpi(MPI_Iallreduce(&instants->mine, &instants->last, 1, MPI_INT64_T, MPI_MAX, state.notices.communicator(),
                               &request),
                "MPI_Iallreduce");
    }
    Patience patience(state, state.timeout_seconds > 0.0 ? state.timeout_seconds : kLastBarrierSeconds);
    for (Backoff backoff;; backoff.pause()) {
      const std::lock_guard lock(state.calls);
      int done = 0;
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) {
        last = instants->last;
        return std::nullopt;
      }
      state.notices.poll();
      if (state.notices.failure()) return state.notices.failure();
      if (const std::string why = patience.ended() ? patience.look({}) : std::string(); !why.empty()) {
        return RankFailure{
            state.rank, static_cast<int>(ExitCode::lost_rank),
            fmt::format("waited {:.1f} s for every rank to come to the end; {}", patience.seconds(), why)};
      }
    }
  } catch (const Error& error) {
    return RankFailure{state.rank, static_cast<int>(ExitCode::lost_rank), error.what()};
  }
}

void finalize(MpiSession::State& state) {
  const std::lock_guard lock(state.calls);
  state.notices.close();
  MPI_Finalize();
}

bool finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

volatile std::sig_atomic_t the_exit_code = 0;

/// Unfinished sends may read memory that is gone by now: all is said and flushed, so a fault here only ends the wait. A
/// wait that does not end is ended by the alarm, and TERM, which mpirun sends when the first rank is gone, comes late.
void end_whatever_happens(int exit_code) {
  the_exit_code = exit_code;
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGALRM}) std::signal(signal, [](int) { _exit(the_exit_code); });
  std::signal(SIGTERM, SIG_IGN);
  alarm(static_cast<unsigned>(kGraceSeconds) + 2);
}

/// Returns on all ranks of a machine within microseconds, when all of them know that they may end.
void end_together(std::int64_t last) {
  const auto now = std::chrono::nanoseconds(steady_instant());
  const auto end = std::chrono::nanoseconds(last) + kLastLook;
  // Another machine has another clock.
  std::this_thread::sleep_for(std::clamp<std::chrono::nanoseconds>(end - now, kLastLook / 2, 2 * kLastLook));
}

/// Waits until the other ranks are here too, since mpirun kills them when the first one is gone.
void wait_for_others_to_leave(MpiSession::State& state) {
  Backoff backoff;
  while (true) {
    {
      const std::lock_guard lock(state.calls);
      if (!state.unsafe) state.notices.poll();
      const bool blind = state.notices.any_blind();
      if (state.notices.all_left() && !blind) break;
      if (state.notices.seconds_since_failure() > (blind ? kBlindGraceSeconds : kGraceSeconds)) return;
    }
    backoff.pause();
  }
  end_together(state.notices.last_leaving());
}

[[noreturn]] void leave_with_error(MpiSession::State& state, int exit_code, const std::string& why) {
  flush();
  end_whatever_happens(exit_code);
  try {
    {
      const std::lock_guard lock(state.calls);
      const auto take_first_cause = [&] {
        const auto& failure = state.notices.failure();
        if (failure && exit_code == static_cast<int>(ExitCode::lost_rank)) exit_code = failure->exit_code;
        the_exit_code = exit_code;
      };
      take_first_cause();
      // Before anything is polled: the fault above may come with the first poll, and ends this rank.
      state.notices.announce_failure(exit_code, why);
      state.notices.announce_leaving(state.unsafe);
      state.notices.activities = {{nullptr, [] { return std::string("leaving with an error"); }}};
      if (!state.unsafe) state.notices.poll();
      take_first_cause();
    }
    wait_for_others_to_leave(state);
  } catch (const std::exception&) {
    // MPI itself fails: there is nobody to wait for.
  }
  _exit(exit_code);
}

}  // namespace

int MpiSession::State::lost_neighbour() {
  constexpr double kLookSeconds = 0.1;
  if (neighbours.empty() || since_look.seconds() < kLookSeconds) return -1;
  since_look.restart();
  for (const auto& [other, process] : neighbours) {
    if (!process.runs()) return other;
  }
  return -1;
}

std::string MpiSession::State::name_of_rank(int other) const {
  return fmt::format("rank {} on {}", other, hosts[static_cast<std::size_t>(other)]);
}

void complete_at_start(MPI_Request& request, double limit_seconds, const char* what) {
  const Stopwatch stopwatch;
  for (Backoff backoff;; backoff.pause()) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) return;
    if (stopwatch.seconds() > limit_seconds) {
      throw CommunicationError(
          fmt::format("MPI started, and then waited {:.0f} s for all ranks to {}: one of them hangs, or hosts do not "
                      "reach each other",
                      limit_seconds, what));
    }
  }
}

MpiSession::MpiSession(int& argc, char**& argv, double start_seconds)
    : state_(std::make_unique<State>()), exceptions_at_start_(std::uncaught_exceptions()) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  ensure(initialized == 0, "a second MPI session in one process");
  {
    const Deadline deadline(start_seconds,
                            "MPI to start: a rank of this job has not come up, or hosts do not reach each other");
    check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &state_->thread_level), "MPI_Init_thread");
  }
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &state_->rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &state_->size), "MPI_Comm_size");
  require_one_world(state_->size);

  take_place(*state_, gather_addresses(state_->size, start_seconds));
  state_->notices.open(MPI_COMM_WORLD, start_seconds);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_at_start_ || finalized()) return;
  std::int64_t last = 0;
  if (const auto failure = barrier(*state_, last)) {
    std::fprintf(stderr, "MPI is not ended in order: %s\n", failure->text.c_str());
    return;
  }
  finalize(*state_);
}

int MpiSession::rank() const noexcept {
  return state_->rank;
}
int MpiSession::size() const noexcept {
  return state_->size;
}
int MpiSession::local_rank() const noexcept {
  return state_->local_rank;
}
int MpiSession::local_size() const noexcept {
  return state_->local_size;
}
bool MpiSession::allows_progress_thread() const noexcept {
  return state_->thread_level >= MPI_THREAD_SERIALIZED;
}

std::string MpiSession::library_version() const {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  const std::string version(text.data(), static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

void leave(MpiSession& session, int exit_code, std::string_view why) {
  MpiSession::State& state = session.state();
  flush();
  const bool in_order =
      exit_code == static_cast<int>(ExitCode::done) || exit_code == static_cast<int>(ExitCode::stopped);
  std::string text(why);
  if (in_order) {
    std::int64_t last = 0;
    const auto failure = barrier(state, last);
    if (!failure) {
      end_whatever_happens(exit_code);
      if (exit_code == 0) {
        alarm(kFinalizeSeconds);
        finalize(state);
        flush();
      } else {
        // mpirun kills the rest when the first one is gone with an error code: no time for MPI_Finalize.
        end_together(last);
      }
      _exit(exit_code);  // all is said: what libraries still do in destructors could only fail
    }
    text = failure->text;
    exit_code = failure->exit_code;
    const std::string who =
        failure->origin == state.rank ? std::string() : fmt::format("rank {} failed: ", failure->origin);
    std::fprintf(stderr, "rank %d had finished, but %s%s\n", state.rank, who.c_str(), text.c_str());
  }
  if (text.empty()) text = fmt::format("exit code {}", exit_code);
  leave_with_error(state, exit_code, text);
}

}  // namespace credence
