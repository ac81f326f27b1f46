#include "credence/communication/mpi_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "credence/base/errors.h"
#include "credence/communication/backoff.h"

namespace credence {

namespace {

constexpr double kAbandonedSeconds = 0.05;  // for transfers to end whose memory goes away
// What a rank sent before it failed still arrives: where all ranks agreed on an error, each finds that out by itself.
constexpr double kLastMessagesSeconds = 0.3;
constexpr int kPollsPerNotice = 32;

bool mpi_is_up() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  return finalized == 0;
}

}  // namespace

MpiEngine::MpiEngine(MpiSession::State& state, const MpiEngineOptions& options) : state_(state), options_(options) {
  duplicate_world();
  void* bound = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(comm_, MPI_TAG_UB, &bound, &found), "MPI_Comm_get_attr");
  const std::int64_t largest = found != 0 ? *static_cast<int*>(bound) : 32767;
  tags_ = options.tag_window > 0 ? options.tag_window : (largest - 1) / 2;
  const std::lock_guard lock(state_.calls);
  state_.notices.activities.emplace_back(this, [this] { return activity(); });
  state_.timeout_seconds = std::max(state_.timeout_seconds, options.timeout_seconds);
  if (options_.thread) thread_ = std::thread([this] { run_thread(); });
}

MpiEngine::~MpiEngine() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    thread_.join();
  }
  const std::lock_guard lock(state_.calls);
  leave_board();
  if (!state_.unsafe && !failure_ && std::uncaught_exceptions() == 0 && mpi_is_up()) MPI_Comm_free(&comm_);
}

void MpiEngine::duplicate_world() {
  struct OnBoard {
    MpiEngine& engine;
    std::shared_ptr<MPI_Comm> comm = std::make_shared<MPI_Comm>(MPI_COMM_NULL);  // MPI writes to it until it is done
    bool done = false;
    ~OnBoard() {
      const std::lock_guard lock(engine.state_.calls);
      engine.leave_board();
      if (!done) engine.state_.given_up.push_back(comm);
    }
  } world{*this};
  MPI_Request request = MPI_REQUEST_NULL;
  {
    const std::lock_guard lock(state_.calls);
    state_.notices.activities.emplace_back(this, [] { return std::string("setting up a communicator"); });
    check_mpi(MPI_Comm_idup(MPI_COMM_WORLD, world.comm.get(), &request), "MPI_Comm_idup");
  }
  Patience patience(state_, options_.timeout_seconds);
  for (Backoff backoff; !world.done; backoff.pause()) {
    const std::lock_guard lock(state_.calls);
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    world.done = done != 0;
    if (world.done) break;
    heed_notices();
    if (const std::string why = patience.ended() ? patience.look({}) : std::string(); !why.empty()) {
      fail(fmt::format("waited {:.1f} s for all ranks to set up a communicator; {}", patience.seconds(), why));
    }
  }
  comm_ = *world.comm;
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

void MpiEngine::leave_board() {
  std::erase_if(state_.notices.activities, [this](const auto& entry) { return entry.first == this; });
}

MpiPlace MpiEngine::next_place() {
  const int tag = static_cast<int>(started_++ % tags_ * 2);
  return MpiPlace{comm_, state_.rank, state_.size, tag, pool_};
}

void MpiEngine::submit(const std::shared_ptr<MpiOperation>& operation) {
  state_.last_call = steady_instant();
  operation->number = started_;
  throw_if_failed();
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      submitted_.push_back(operation);
    }
    work_.notify_one();
    return;
  }
  const std::lock_guard lock(state_.calls);
  if (state_.unsafe) fail("communication was given up after an earlier error");
  try {
    operation->start();
  } catch (const CommunicationError& error) {
    // Some of its messages may be on their way.
    state_.given_up.push_back(operation);
    state_.unsafe = true;
    fail(fmt::format("{}: {}", operation->describe(), error.what()));
  }
  if (!operation->done()) in_flight_.push_back(operation);
}

bool MpiEngine::advance_all() {
  if (state_.unsafe) return false;
  {
    std::vector<std::shared_ptr<MpiOperation>> submitted;
    {
      const std::lock_guard lock(mutex_);
      submitted.swap(submitted_);
    }
    for (const auto& operation : submitted) {
      operation->start();
      in_flight_.push_back(operation);
    }
  }
  bool moved = false;
  for (const auto& operation : in_flight_) {
    try {
      moved = operation->advance() || moved;
    } catch (const CommunicationError& error) {
      const std::string text = fmt::format("{}: {}", operation->describe(), error.what());
      state_.notices.announce_failure(static_cast<int>(ExitCode::lost_rank), text);
      fail(text);
    }
  }
  if (moved) std::erase_if(in_flight_, [](const auto& operation) { return operation->done(); });
  return moved;
}

void MpiEngine::heed_notices(bool answer) {
  if (state_.unsafe) return;
  state_.notices.poll(answer);
  const auto& failure = state_.notices.failure();
  if (failure && state_.notices.seconds_since_failure() > kLastMessagesSeconds) {
    fail(fmt::format("{} failed: {}", state_.name_of_rank(failure->origin), failure->text));
  }
  // mpirun ends the survivors of a killed rank within two seconds: time enough to say why, if it is noticed at once.
  if (const int lost = failure ? -1 : state_.lost_neighbour(); lost >= 0) {
    const std::string text = fmt::format("{} is gone: its process was killed or crashed", state_.name_of_rank(lost));
    state_.notices.announce_failure(static_cast<int>(ExitCode::lost_rank), text);
    fail(text);
  }
}

void MpiEngine::wait(const std::shared_ptr<MpiOperation>& operation) {
  {
    const std::lock_guard lock(mutex_);
    waited_for_ = operation.get();
  }
  struct Reset {
    MpiEngine& engine;
    ~Reset() {
      const std::lock_guard lock(engine.mutex_);
      engine.waited_for_ = nullptr;
      engine.state_.last_call = steady_instant();
    }
  } const reset{*this};
  if (thread_.joinable()) {
    wait_for_thread(*operation);
  } else {
    wait_polling(*operation);
  }
}

void MpiEngine::wait_polling(const MpiOperation& operation) {
  Patience patience(state_, options_.timeout_seconds);
  Backoff backoff;
  for (int polls = 0; !operation.done(); ++polls) {
    bool moved = false;
    {
      const std::lock_guard lock(state_.calls);
      throw_if_failed();
      moved = advance_all();
      if (!moved && (polls % kPollsPerNotice == 0 || backoff.sleeps())) heed_notices();
      if (operation.done()) return;
      patience.saw(operation.moves());
      if (patience.ended()) look_around(operation, patience);
    }
    if (moved) {
      backoff.reset();
    } else {
      backoff.pause();
    }
  }
}

void MpiEngine::wait_for_thread(const MpiOperation& operation) {
  Patience patience(state_, options_.timeout_seconds);
  std::unique_lock lock(mutex_);
  while (!operation.done()) {
    if (failure_) throw CommunicationError(*failure_);
    done_.wait_for(lock, std::chrono::milliseconds(20));
    patience.saw(operation.moves());
    if (!patience.ended()) continue;
    lock.unlock();
    {
      const std::lock_guard calls(state_.calls);
      if (!operation.done()) look_around(operation, patience);
    }
    lock.lock();
  }
}

void MpiEngine::look_around(const MpiOperation& operation, Patience& patience) {
  const std::string why = patience.look(operation.waits_for());
  if (why.empty()) return;
  const std::string text = fmt::format("waited {:.1f} s in {}; {}", patience.seconds(), operation.describe(), why);
  state_.notices.announce_failure(static_cast<int>(ExitCode::lost_rank), text);
  fail(text);
}

void MpiEngine::abandon(const std::shared_ptr<MpiOperation>& operation) noexcept {
  const std::lock_guard lock(state_.calls);
  std::erase(in_flight_, operation);
  {
    const std::lock_guard own(mutex_);
    if (!failure_) failure_ = fmt::format("{} was left unfinished after another error", operation->describe());
    if (std::erase(submitted_, operation) > 0) return;
  }
  if (operation->done() || !mpi_is_up()) return;
  bool ended = false;
  try {
    const Stopwatch stopwatch;
    while (!state_.unsafe && !ended && stopwatch.seconds() < kAbandonedSeconds) ended = operation->cancel();
  } catch (const std::exception&) {
    // MPI fails: what it still does with the memory is unknown.
  }
  state_.given_up.push_back(operation);  // sends may still read its memory
  if (!ended) state_.unsafe = true;
}

void MpiEngine::progress() {
  state_.last_call = steady_instant();
  std::unique_lock lock(state_.calls, std::defer_lock);
  if (!thread_.joinable()) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return;  // the thread is at work and looks at notices too
  }
  throw_if_failed();
  if (!thread_.joinable()) advance_all();
  heed_notices();
}

void MpiEngine::fail(const std::string& text) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = text;
  }
  throw CommunicationError(text);
}

void MpiEngine::throw_if_failed() {
  const std::lock_guard lock(mutex_);
  if (failure_) throw CommunicationError(*failure_);
}

void MpiEngine::run_thread() {
  Backoff backoff;
  while (true) {
    bool idle = false;
    bool moved = false;
    try {
      const std::lock_guard lock(state_.calls);
      moved = advance_all();
      if (!moved) heed_notices(caller_is_there());
      idle = in_flight_.empty();
    } catch (const std::exception& error) {
      // The waiting thread throws it; operations in flight stay as they are until they are abandoned.
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = error.what();
    }
    std::unique_lock lock(mutex_);  // or a waiter between its look and its sleep would not hear of it
    if (moved || failure_) done_.notify_all();
    if (stop_) return;
    if (failure_ || (idle && submitted_.empty())) {
      work_.wait(lock, [&] { return stop_ || (!failure_ && !submitted_.empty()); });
      backoff.reset();
      continue;
    }
    lock.unlock();
    if (moved) {
      backoff.reset();
    } else {
      backoff.pause();
    }
  }
}

std::string MpiEngine::activity() {
  const std::lock_guard lock(mutex_);
  return waited_for_ == nullptr ? std::string() : fmt::format("in {}", waited_for_->describe());
}

bool MpiEngine::caller_is_there() {
  {
    const std::lock_guard lock(mutex_);
    if (waited_for_ != nullptr) return true;
  }
  return 1e-9 * static_cast<double>(steady_instant() - state_.last_call) < options_.timeout_seconds;
}

}  // namespace credence
