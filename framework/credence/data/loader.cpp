#include "credence/data/loader.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"

namespace credence {

struct Loader::State {
  State(const DataSource& source_, const SamplingPlan& plan_, const Options& options_)
      : source(source_), plan(plan_), options(options_), ring(static_cast<std::size_t>(options.depth) + 1) {}

  struct Slot {
    Batch batch;
    std::exception_ptr error;
  };
  Slot& slot(std::int64_t batch) { return ring[static_cast<std::size_t>(batch) % ring.size()]; }

  void fill(std::int64_t number, Batch& batch) const {
    const std::int64_t step = options.first_step + number / options.shard_count;
    const int shard = options.first_shard + static_cast<int>(number % options.shard_count);
    const SamplingPlan::Selection selection = plan.select(step, shard);
    source.read(selection.examples, batch);
    augment(options.augmentation, options.seed, source.spec(), selection, batch);
  }

  void run() {
    for (std::int64_t number = 0;; ++number) {
      {
        std::unique_lock lock(mutex);
        taken.wait(lock, [&] { return stop || number < returned + options.depth; });
        if (stop) return;
      }
      Slot& free = slot(number);
      try {
        fill(number, free.batch);
      } catch (...) {
        free.error = std::current_exception();
      }
      const bool failed = free.error != nullptr;
      {
        const std::lock_guard lock(mutex);
        made = number + 1;
      }
      ready.notify_one();
      if (failed) return;
    }
  }

  const DataSource& source;
  const SamplingPlan& plan;
  const Options options;
  std::vector<Slot> ring;  // one in the caller's hands, `depth` ahead of it
  std::mutex mutex;
  std::condition_variable ready;
  std::condition_variable taken;
  std::int64_t made = 0;
  std::int64_t returned = 0;
  bool stop = false;
  double waited_seconds = 0.0;
  std::thread thread;
};

Loader::Loader(const DataSource& source, const SamplingPlan& plan, const Options& options) {
  ensure(options.depth > 0 && options.first_step >= 0, "a loader reads ahead from some step on");
  ensure(
      options.shard_count > 0 && options.first_shard >= 0 && options.shard_count <= plan.shards() - options.first_shard,
      "a loader serves a block of the plan's shards");
  ensure(plan.examples() == source.size(), "sampling plan and dataset differ in size");
  check_augmentation(options.augmentation, source.spec());
  state_ = std::make_unique<State>(source, plan, options);
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->taken.notify_one();
  state_->thread.join();
}

const Batch& Loader::next() {
  State& state = *state_;
  {
    std::unique_lock lock(state.mutex);
    if (state.made == state.returned) {
      const Stopwatch stopwatch;
      state.ready.wait(lock, [&] { return state.made > state.returned; });
      state.waited_seconds += stopwatch.seconds();
    }
    const State::Slot& slot = state.slot(state.returned);
    if (slot.error) std::rethrow_exception(slot.error);
    ++state.returned;
  }
  state.taken.notify_one();
  return state.slot(state.returned - 1).batch;
}

double Loader::waited_seconds() const {
  return state_->waited_seconds;
}

}  // namespace credence
