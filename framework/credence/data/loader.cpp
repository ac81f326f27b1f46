#include "credence/data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/data/image_source.h"

namespace credence {
namespace {

constexpr std::int64_t kRows = 8;  // images that a thread takes at a time

}  // namespace

struct Loader::State {
  State(const DataSource& source_, const SamplingPlan& plan_, const Options& options_)
      : source(source_), images(source_.as_images()), plan(plan_), options(options_) {
    for (int i = 0; i < options.depth + 1; ++i) ring.emplace_back(options.pixel_memory);
  }

  struct Slot {
    explicit Slot(std::pmr::memory_resource* memory)
        : batch{
              .size = 0, .inputs = {}, .pixels = std::pmr::vector<std::uint8_t>(memory), .labels = {}, .targets = {}} {}

    Batch batch;
    SamplingPlan::Selection selection;
    std::exception_ptr error;
    std::int64_t parts_left = 0;  // of those given out or to be given out
  };
  Slot& slot(std::int64_t batch) { return ring[static_cast<std::size_t>(batch) % ring.size()]; }

  /// Part of a batch: rows of images, or all of it.
  struct Part {
    std::int64_t batch;
    std::int64_t index;
  };
  std::int64_t parts() const { return images == nullptr ? 1 : (plan.shard_size() + kRows - 1) / kRows; }

  /// Under the lock: sizes a batch before its first part is given out.
  void begin(std::int64_t number) {
    Slot& free = slot(number);
    const std::int64_t step = options.first_step + number / options.shard_count;
    const int shard = options.first_shard + static_cast<int>(number % options.shard_count);
    free.selection = plan.select(step, shard);
    free.parts_left = parts();
    if (images != nullptr) images->prepare(plan.shard_size(), free.batch);
  }

  void fill(const Part& part) {
    Slot& mine = slot(part.batch);
    if (images != nullptr) {
      const std::int64_t first = part.index * kRows;
      images->read_rows(mine.selection, {options.augmentation, options.seed}, first,
                        std::min(first + kRows, plan.shard_size()), mine.batch);
    } else {
      source.read(mine.selection.examples, mine.batch);
      augment(options.augmentation, options.seed, source.spec(), mine.selection, mine.batch);
    }
  }

  /// The next part to fill, once there is room; false at the end.
  bool take(Part& part) {
    std::unique_lock lock(mutex);
    taken.wait(lock, [&] { return stop || next.batch < returned + options.depth; });
    if (stop) return false;
    if (next.index == 0) begin(next.batch);
    part = next;
    if (++next.index == parts()) next = {next.batch + 1, 0};
    return true;
  }

  void run() {
    Part part{};
    for (;;) {
      std::exception_ptr error;
      bool some = false;
      try {
        some = take(part);
        if (some) fill(part);
      } catch (...) {
        error = std::current_exception();
      }
      if (!some && !error) return;
      {
        const std::lock_guard lock(mutex);
        Slot& mine = slot(some ? part.batch : next.batch);
        if (error && !mine.error) mine.error = error;
        if (error) stop = true;
        if (some) --mine.parts_left;
      }
      ready.notify_one();
      if (error) taken.notify_all();
    }
  }

  /// Under the lock: whether the batch to return is whole, or will never be. All parts before one that failed have been
  /// given out, so the batches before its own become whole.
  bool is_ready() {
    const Slot& due = slot(returned);
    const bool begun = next.batch > returned || next.index > 0;
    return due.error != nullptr || (begun && due.parts_left == 0);
  }

  const DataSource& source;
  const ImageSource* images;
  const SamplingPlan& plan;
  const Options options;
  std::vector<Slot> ring;  // one in the caller's hands, `depth` ahead of it
  std::mutex mutex;
  std::condition_variable ready;
  std::condition_variable taken;
  Part next{0, 0};
  std::int64_t returned = 0;
  bool stop = false;
  double waited_seconds = 0.0;
  std::vector<std::thread> threads;
};

Loader::Loader(const DataSource& source, const SamplingPlan& plan, const Options& options) {
  ensure(options.depth > 0 && options.first_step >= 0, "a loader reads ahead from some step on");
  ensure(
      options.shard_count > 0 && options.first_shard >= 0 && options.shard_count <= plan.shards() - options.first_shard,
      "a loader serves a block of the plan's shards");
  ensure(plan.examples() == source.size(), "sampling plan and dataset differ in size");
  ensure(options.threads > 0, "a loader needs a thread");
  check_augmentation(options.augmentation, source.spec(), source.as_images() != nullptr);
  state_ = std::make_unique<State>(source, plan, options);
  const int threads = source.as_images() != nullptr ? options.threads : 1;
  for (int i = 0; i < threads; ++i) state_->threads.emplace_back([state = state_.get()] { state->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->taken.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

bool Loader::ready_within(std::chrono::milliseconds limit) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  if (state.is_ready()) return true;
  const Stopwatch stopwatch;
  const bool ready = state.ready.wait_for(lock, limit, [&] { return state.is_ready(); });
  state.waited_seconds += stopwatch.seconds();
  return ready;
}

const Batch& Loader::next() {
  constexpr std::chrono::hours kLong{1};
  while (!ready_within(kLong)) {
  }
  State& state = *state_;
  {
    const std::lock_guard lock(state.mutex);
    const State::Slot& slot = state.slot(state.returned);
    if (slot.error) std::rethrow_exception(slot.error);
    ++state.returned;
  }
  state.taken.notify_all();
  return state.slot(state.returned - 1).batch;
}

double Loader::waited_seconds() const {
  return state_->waited_seconds;
}

}  // namespace credence
