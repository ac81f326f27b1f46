#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace credence {

/// Which examples a shard reads: example k of the run is permutation[k / N](k mod N), batches run on across the border
/// of epochs, a global batch is cut into `shards` equal, contiguous parts. Pure function of (seed, step, shard).
class SamplingPlan {
 public:
  /// UserError unless batch is a positive multiple of shards, examples > 0 and seed < 2^56. batch may exceed examples.
  SamplingPlan(std::uint64_t seed, std::int64_t examples, std::int64_t batch, int shards);

  /// Dataset indices of one shard at one step (steps count from 0), and of each the epoch it belongs to.
  struct Selection {
    std::vector<std::int64_t> examples;
    std::vector<std::int64_t> epochs;
  };
  Selection select(std::int64_t step, int shard) const;  // thread safe

  std::int64_t examples() const noexcept { return examples_; }
  std::int64_t batch() const noexcept { return batch_; }
  int shards() const noexcept { return shards_; }
  std::int64_t shard_size() const noexcept { return batch_ / shards_; }
  /// ceil(epochs * N / batch), whatever the rounding of a fraction of an epoch. UserError for a negative number.
  std::int64_t steps(double epochs) const;
  /// Epochs completed after so many steps.
  double epochs(std::int64_t steps) const;

 private:
  struct Permutation;
  std::shared_ptr<const Permutation> permutation(std::int64_t epoch) const;

  std::uint64_t seed_;
  std::int64_t examples_;
  std::int64_t batch_;
  int shards_;
  mutable std::mutex mutex_;
  // The two epochs used last, the latest at the back: 4 bytes an example each, 8 beyond 2^31 examples.
  mutable std::vector<std::pair<std::int64_t, std::shared_ptr<const Permutation>>> cached_;
};

}  // namespace credence
