#include "credence/communication/mpi_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/communication/backoff.h"

namespace credence {

namespace {

constexpr double kAnswerSeconds = 1.0;      // for the others to answer before they count as missing
constexpr double kAbandonedSeconds = 0.05;  // for transfers to end whose memory goes away
// What a rank sent before it failed still arrives: where all ranks agreed on an error, each finds that out by itself.
constexpr double kLastMessagesSeconds = 0.1;
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
  std::erase_if(state_.notices.activities, [this](const auto& entry) { return entry.first == this; });
  if (!state_.unsafe && !failure_ && std::uncaught_exceptions() == 0 && mpi_is_up()) MPI_Comm_free(&comm_);
}

void MpiEngine::duplicate_world() {
  MPI_Request request = MPI_REQUEST_NULL;
  {
    const std::lock_guard lock(state_.calls);
    check_mpi(MPI_Comm_idup(MPI_COMM_WORLD, &comm_, &request), "MPI_Comm_idup");
  }
  const Stopwatch stopwatch;
  Backoff backoff;
  while (true) {
    {
      const std::lock_guard lock(state_.calls);
      int done = 0;
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) break;
      heed_notices();
    }
    if (stopwatch.seconds() > options_.timeout_seconds) {
      throw CommunicationError(fmt::format("rank {}: not every rank set up its communicator within {:g} s", state_.rank,
                                           options_.timeout_seconds));
    }
    backoff.pause();
  }
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiPlace MpiEngine::next_place() {
  const int tag = static_cast<int>(started_++ % tags_ * 2);
  return MpiPlace{comm_, state_.rank, state_.size, tag, pool_};
}

void MpiEngine::submit(const std::shared_ptr<MpiOperation>& operation) {
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

void MpiEngine::heed_notices() {
  if (state_.unsafe) return;
  state_.notices.poll();
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
    }
  } const reset{*this};
  if (thread_.joinable()) {
    wait_for_thread(*operation);
  } else {
    wait_polling(*operation);
  }
}

void MpiEngine::wait_polling(const MpiOperation& operation) {
  Stopwatch unmoved;
  std::int64_t moves = operation.moves();
  Backoff backoff;
  for (int polls = 0; !operation.done(); ++polls) {
    bool moved = false;
    {
      const std::lock_guard lock(state_.calls);
      throw_if_failed();
      moved = advance_all();
      if (!moved && (polls % kPollsPerNotice == 0 || backoff.sleeps())) heed_notices();
    }
    if (operation.done()) return;
    if (operation.moves() != moves) {
      moves = operation.moves();
      unmoved.restart();
    } else if (unmoved.seconds() > options_.timeout_seconds) {
      find_missing(operation, unmoved.seconds());
      return;
    }
    if (moved) {
      backoff.reset();
    } else {
      backoff.pause();
    }
  }
}

void MpiEngine::wait_for_thread(const MpiOperation& operation) {
  Stopwatch unmoved;
  std::int64_t moves = operation.moves();
  std::unique_lock lock(mutex_);
  while (!operation.done()) {
    if (failure_) throw CommunicationError(*failure_);
    done_.wait_for(lock, std::chrono::milliseconds(20));
    if (operation.moves() != moves) {
      moves = operation.moves();
      unmoved.restart();
    } else if (unmoved.seconds() > options_.timeout_seconds) {
      lock.unlock();
      find_missing(operation, unmoved.seconds());
      return;
    }
  }
}

void MpiEngine::find_missing(const MpiOperation& operation, double waited_seconds) {
  const Stopwatch asking;
  {
    const std::lock_guard lock(state_.calls);
    state_.notices.ask();
  }
  Backoff backoff;
  while (true) {
    {
      const std::lock_guard lock(state_.calls);
      throw_if_failed();
      advance_all();
      heed_notices();
      if (operation.done()) return;
      if (state_.notices.all_answered() || asking.seconds() > kAnswerSeconds) {
        const std::string text = blame(operation, waited_seconds);
        state_.notices.announce_failure(static_cast<int>(ExitCode::lost_rank), text);
        fail(text);
      }
    }
    backoff.pause();
  }
}

std::string MpiEngine::blame(const MpiOperation& operation, double waited_seconds) const {
  const std::vector<std::string>& answers = state_.notices.answers();
  std::vector<std::string> silent;
  for (int rank = 0; rank < state_.size; ++rank) {
    if (answers[static_cast<std::size_t>(rank)].empty()) silent.push_back(state_.name_of_rank(rank));
  }
  std::vector<std::string> elsewhere;
  for (const int rank : operation.waits_for()) {
    elsewhere.push_back(fmt::format("{} ({})", state_.name_of_rank(rank), answers[static_cast<std::size_t>(rank)]));
  }
  const std::string reason = silent.empty() ? fmt::format("missing, though they answer: {}", fmt::join(elsewhere, ", "))
                                            : fmt::format("no answer from {}", fmt::join(silent, ", "));
  return fmt::format("{} waited {:.1f} s in {}; {}", state_.name_of_rank(state_.rank), waited_seconds,
                     operation.describe(), reason);
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
  if (thread_.joinable()) return;
  const std::lock_guard lock(state_.calls);
  throw_if_failed();
  advance_all();
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
      if (!moved) heed_notices();
      idle = in_flight_.empty();
    } catch (const std::exception& error) {
      // The waiting thread throws it; operations in flight stay as they are until they are abandoned.
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = error.what();
    }
    if (moved) done_.notify_all();
    std::unique_lock lock(mutex_);
    if (failure_) done_.notify_all();
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

}  // namespace credence
