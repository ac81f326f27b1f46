#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <memory_resource>

#include "credence/data/augmentation.h"
#include "credence/data/data_source.h"
#include "credence/data/sampling.h"

namespace credence {

/// Reads the batches of this rank's shards ahead of training, at most `depth` batches ahead: depth + 1 are in memory.
/// Images are decoded by `threads` threads, which share the rows of the batch that is due first; other data by one.
/// An error in a thread is thrown by the next() that would have returned its batch, and by every one after.
/// `source` and `plan` must outlive the loader.
class Loader {
 public:
  struct Options {
    std::int64_t first_step = 0;
    int first_shard = 0;  // this rank's contiguous block of shards
    int shard_count = 1;
    int depth = 4;
    int threads = 1;
    Augmentation augmentation = {};
    std::uint64_t seed = 0;
    /// Where the pixels of all depth + 1 batches are kept; it outlives the loader.
    std::pmr::memory_resource* pixel_memory = std::pmr::get_default_resource();
  };
  /// UserError where the augmentation does not fit the data.
  Loader(const DataSource& source, const SamplingPlan& plan, const Options& options);
  ~Loader();  // waits for what is being read
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The batch of the next (step, shard) in order: all shards of first_step, then of the next step, ... The reference
  /// stays valid until the next call, before which copies that work on their own must have ended.
  const Batch& next();

  /// Waits for the batch of next(), that long at most; whether it is there, or the error in its place.
  bool ready_within(std::chrono::milliseconds limit);

  /// Seconds spent waiting in these two so far; asked by the thread that calls them.
  double waited_seconds() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace credence
