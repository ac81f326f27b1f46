#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "credence/communication/communicator.h"

namespace credence {

/// A run of arena elements whose gradients travel together.
struct Bucket {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  int first_slot = 0;  // slots [first_slot, last_slot)
  int last_slot = 0;
  /// Of so many elements from `begin` on, in one equal chunk a rank, each rank receives the sum of its own chunk only.
  std::int64_t scattered = 0;
};

/// Cuts slots (their first elements, ascending, and the arena's end) into buckets of at most about bucket_bytes, in
/// reverse order of the layout, since gradients become ready roughly from the last layer to the first. Pure: equal on
/// all ranks. A slot larger than bucket_bytes is a bucket of its own; a slot is never split.
struct BucketSizes {
  std::size_t bucket_bytes = 0;
  std::size_t alone_bytes = bucket_bytes;  // a slot of so many bytes or more shares its bucket with no other
};
std::vector<Bucket> plan_buckets(std::span<const std::int64_t> slot_offsets, std::int64_t arena_elements,
                                 std::size_t element_bytes, const BucketSizes& sizes);

/// Sums one or more arrays over an arena across ranks while the backward pass is still producing them.
/// arm() -> ready(slot) once for every slot, in any order -> finish(). Buckets leave strictly in index order on all
/// ranks.
class BucketReducer {
 public:
  BucketReducer(Communicator& communicator, std::vector<Bucket> buckets, int slots);

  /// `arrays` are whole arenas of equal element count (one sum, or two).
  void arm(std::span<const Buffer> arrays);
  /// The slot's elements are final on this rank. Starts every bucket that this completes. `elsewhere`: where those of
  /// the first array are, if not in the arena; the slot must be alone in its bucket.
  void ready(int slot, const std::optional<Buffer>& elsewhere = std::nullopt);
  /// Waits for everything. InternalError where a slot was never ready (names it).
  void finish();

  std::span<const Bucket> buckets() const { return buckets_; }

 private:
  void launch_complete_buckets();

  Communicator& communicator_;
  std::vector<Bucket> buckets_;
  std::vector<int> bucket_of_slot_;
  std::vector<bool> slot_ready_;
  std::vector<int> missing_;                      // slots of each bucket that are not ready yet
  std::vector<std::optional<Buffer>> elsewhere_;  // of each bucket
  std::vector<Buffer> arrays_;
  std::vector<Pending> in_flight_;
  std::size_t next_bucket_ = 0;
};

}  // namespace credence
