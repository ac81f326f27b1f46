#include "credence/checkpoint/background_writer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <set>
#include <system_error>
#include <thread>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/checkpoint/quiet_thread.h"
#include "credence/checkpoint/search.h"

namespace credence {
namespace {

constexpr std::size_t kArrayAlignment = 64;
constexpr std::size_t kPageBytes = std::size_t{2} << 20;

/// A copy of a checkpoint's contents whose memory is kept from save to save.
class Snapshot {
 public:
  void copy(std::int64_t step, const CheckpointContents& contents) {
    step_ = step;
    contents_ = contents;
    std::size_t bytes = 0;
    for (const ArrayView& array : contents.arrays) bytes += padded(array.bytes());
    reserve(bytes);
    std::byte* place = memory_.get();
    for (ArrayView& array : contents_.arrays) {
      const std::size_t size = array.bytes();
      if (size > 0) std::memcpy(place, array.data, size);
      array.data = size > 0 ? place : nullptr;
      place += padded(size);
    }
  }
  std::int64_t step() const { return step_; }
  const CheckpointContents& contents() const { return contents_; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const noexcept { std::free(bytes); }
  };
  static std::size_t padded(std::size_t bytes) {
    return (bytes + kArrayAlignment - 1) / kArrayAlignment * kArrayAlignment;
  }

  void reserve(std::size_t bytes) {
    if (bytes <= capacity_) return;
    memory_.reset();
    capacity_ = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, capacity_)));
    if (memory_ == nullptr) {
      capacity_ = 0;
      throw std::bad_alloc();
    }
    // The first copy meets fresh memory: large pages make it a few hundred page faults instead of tens of thousands.
    madvise(memory_.get(), capacity_, MADV_HUGEPAGE);
  }

  std::int64_t step_ = -1;
  CheckpointContents contents_;
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t capacity_ = 0;
};

}  // namespace

struct BackgroundWriter::State {
  State(std::filesystem::path where, int count, std::function<bool()> lost)
      : directory(std::move(where)), keep(static_cast<std::size_t>(std::max(count, 2))), is_lost(std::move(lost)) {}

  void run();
  /// Writes one checkpoint and, when it is published, deletes what is no longer wanted. The failure's message, if any.
  std::optional<std::string> save(const Snapshot& snapshot);
  void delete_old(std::int64_t newest);
  void require_directory() const;
  bool idle() const { return !waiting && !writing; }
  /// Whether `reached` holds within the limit; counts the time.
  template <class Condition>
  bool wait(std::chrono::milliseconds limit, Condition reached) {
    const Stopwatch watch;
    std::unique_lock lock(mutex);
    const bool met = changed.wait_for(lock, limit, reached);
    blocked_seconds += watch.seconds();
    return met;
  }

  const std::filesystem::path directory;
  const std::size_t keep;
  const std::function<bool()> is_lost;
  std::set<std::int64_t> known_good;  // of the thread alone

  mutable std::mutex mutex;
  std::condition_variable changed;
  Snapshot slots[2];
  std::size_t next_slot = 0;  // where the next submit() copies to
  bool waiting = false;
  bool writing = false;
  bool stopping = false;
  std::optional<std::string> failure;
  int failures = 0;
  double blocked_seconds = 0.0;
  std::int64_t published = -1;
  std::thread thread;
};

void BackgroundWriter::State::run() {
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [&] { return waiting || stopping; });
    if (!waiting) return;
    const Snapshot& snapshot = slots[next_slot];
    next_slot = 1 - next_slot;
    waiting = false;
    writing = true;
    changed.notify_all();
    lock.unlock();
    auto message = save(snapshot);
    lock.lock();
    writing = false;
    if (message) {
      failure = std::move(message);
      ++failures;
    } else {
      failures = 0;
      published = snapshot.step();
    }
    changed.notify_all();
  }
}

std::optional<std::string> BackgroundWriter::State::save(const Snapshot& snapshot) {
  const auto file = directory / checkpoint_name(snapshot.step());
  try {
    require_directory();
    known_good.erase(snapshot.step());
    write_checkpoint(file, snapshot.contents(), [this] { require_directory(); });
    known_good.insert(snapshot.step());
  } catch (const std::exception& error) {
    return error.what();
  }
  try {
    require_directory();
    delete_old(snapshot.step());
  } catch (const std::exception& error) {
    log_warning("old checkpoints could not be deleted: {}", error.what());
  }
  return std::nullopt;
}

void BackgroundWriter::State::require_directory() const {
  if (is_lost && is_lost()) throw DirectoryInUseError(fmt::format("{} is another job's now", directory.string()));
}

void BackgroundWriter::State::delete_old(std::int64_t newest) {
  // Only files known to be good count as kept: one written by an earlier process is read once before it may count.
  // Files of later steps are not touched: they are damaged ones that the run left behind when it resumed from an older
  // one.
  std::size_t kept = 0;
  for (const auto& [step, file] : checkpoints::list_checkpoints(directory)) {
    if (step > newest) continue;
    if (kept == keep) {
      std::error_code error;
      if (!std::filesystem::remove(file, error) && error) {
        log_warning("{} could not be deleted: {}", file.string(), error.message());
      }
      known_good.erase(step);
    } else if (known_good.contains(step) || checkpoints::is_intact(file)) {
      known_good.insert(step);
      ++kept;
    }
  }
}

BackgroundWriter::BackgroundWriter(std::filesystem::path directory, int keep, std::function<bool()> is_lost)
    : state_(std::make_unique<State>(std::move(directory), keep, std::move(is_lost))) {
  state_->thread = checkpoints::start_quiet_thread([state = state_.get()] { state->run(); });
}

BackgroundWriter::~BackgroundWriter() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

void BackgroundWriter::submit(std::int64_t step, const CheckpointContents& contents) {
  const Stopwatch watch;
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->waiting; });
  // The free slot: the thread looks at it only after `waiting` is set. The copy itself need not hold the lock, as only
  // one thread submits.
  Snapshot& slot = state_->slots[state_->next_slot];
  lock.unlock();
  std::optional<std::string> failure;
  try {
    slot.copy(step, contents);
  } catch (const std::bad_alloc&) {
    failure = fmt::format("{}: not enough memory to copy it", (state_->directory / checkpoint_name(step)).string());
  }
  lock.lock();
  state_->waiting = !failure;
  if (failure) {
    state_->failure = std::move(failure);
    ++state_->failures;
  }
  state_->blocked_seconds += watch.seconds();
  lock.unlock();
  state_->changed.notify_all();
}

std::optional<std::string> BackgroundWriter::take_failure() {
  const std::lock_guard lock(state_->mutex);
  return std::exchange(state_->failure, std::nullopt);
}

int BackgroundWriter::consecutive_failures() const {
  const std::lock_guard lock(state_->mutex);
  return state_->failures;
}

bool BackgroundWriter::wait_for_room(std::chrono::milliseconds limit) {
  return state_->wait(limit, [this] { return !state_->waiting; });
}

bool BackgroundWriter::wait_until_idle(std::chrono::milliseconds limit) {
  return state_->wait(limit, [this] { return state_->idle(); });
}

void BackgroundWriter::drain() {
  const Stopwatch watch;
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->idle(); });
  state_->blocked_seconds += watch.seconds();
}

double BackgroundWriter::blocked_seconds() const {
  const std::lock_guard lock(state_->mutex);
  return state_->blocked_seconds;
}

std::int64_t BackgroundWriter::published_step() const {
  const std::lock_guard lock(state_->mutex);
  return state_->published;
}

}  // namespace credence
