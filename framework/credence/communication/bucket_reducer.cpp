#include "credence/communication/bucket_reducer.h"

#include <algorithm>
#include <exception>

namespace credence {

namespace {

/// Elements [begin, end).
Buffer part_of(Buffer buffer, std::int64_t begin, std::int64_t end) {
  buffer.data = static_cast<std::byte*>(buffer.data) + static_cast<std::size_t>(begin) * size_of(buffer.dtype);
  buffer.count = end - begin;
  return buffer;
}

}  // namespace

std::vector<Bucket> plan_buckets(std::span<const std::int64_t> slot_offsets, std::int64_t arena_elements,
                                 std::size_t element_bytes, const BucketSizes& sizes) {
  ensure(element_bytes > 0 && sizes.bucket_bytes > 0 && sizes.alone_bytes > 0, "buckets without a size");
  ensure(std::is_sorted(slot_offsets.begin(), slot_offsets.end()), "slots out of order");
  ensure(slot_offsets.empty() || (slot_offsets.front() >= 0 && slot_offsets.back() <= arena_elements),
         "slots outside of the arena");
  const auto most_elements = static_cast<std::int64_t>(std::max<std::size_t>(sizes.bucket_bytes / element_bytes, 1));
  const auto alone_elements = static_cast<std::int64_t>((sizes.alone_bytes - 1) / element_bytes + 1);
  std::vector<Bucket> buckets;
  bool closed = true;
  std::int64_t slot_end = arena_elements;
  for (int slot = static_cast<int>(slot_offsets.size()) - 1; slot >= 0; --slot) {
    const std::int64_t slot_begin = slot_offsets[static_cast<std::size_t>(slot)];
    const bool alone = slot_end - slot_begin >= alone_elements;
    if (closed || alone || buckets.back().end - slot_begin > most_elements) {
      buckets.push_back({slot_begin, slot_end, slot, slot + 1});
    } else {
      buckets.back().begin = slot_begin;
      buckets.back().first_slot = slot;
    }
    closed = alone;
    slot_end = slot_begin;
  }
  return buckets;
}

BucketReducer::BucketReducer(Communicator& communicator, std::vector<Bucket> buckets, int slots)
    : communicator_(communicator), buckets_(std::move(buckets)) {
  ensure(slots >= 0, "a negative number of slots");
  bucket_of_slot_.assign(static_cast<std::size_t>(slots), -1);
  for (std::size_t index = 0; index < buckets_.size(); ++index) {
    const Bucket& bucket = buckets_[index];
    ensure(bucket.begin >= 0 && bucket.begin <= bucket.end, "a bucket whose end lies before its begin");
    ensure(bucket.first_slot >= 0 && bucket.first_slot < bucket.last_slot && bucket.last_slot <= slots,
           "a bucket of slots that do not exist");
    ensure(bucket.scattered >= 0 && bucket.scattered <= bucket.end - bucket.begin,
           "a bucket of which more is scattered than it has");
    for (int slot = bucket.first_slot; slot < bucket.last_slot; ++slot) {
      ensure(bucket_of_slot_[static_cast<std::size_t>(slot)] < 0, "a slot in two buckets");
      bucket_of_slot_[static_cast<std::size_t>(slot)] = static_cast<int>(index);
    }
  }
  ensure(std::find(bucket_of_slot_.begin(), bucket_of_slot_.end(), -1) == bucket_of_slot_.end(), "a slot in no bucket");
}

void BucketReducer::arm(std::span<const Buffer> arrays) {
  ensure(arrays_.empty(), "reducer armed twice");
  ensure(!arrays.empty(), "reducer armed without an array");
  for (const Buffer& array : arrays) {
    ensure(array.count == arrays.front().count, "arrays of different element counts");
    for (const Bucket& bucket : buckets_) ensure(bucket.end <= array.count, "a bucket outside of its array");
  }
  arrays_.assign(arrays.begin(), arrays.end());
  slot_ready_.assign(bucket_of_slot_.size(), false);
  elsewhere_.assign(buckets_.size(), std::nullopt);
  missing_.clear();
  for (const Bucket& bucket : buckets_) missing_.push_back(bucket.last_slot - bucket.first_slot);
  next_bucket_ = 0;
}

void BucketReducer::ready(int slot, const std::optional<Buffer>& elsewhere) {
  ensure(!arrays_.empty(), "a gradient became ready while the reducer was not armed");
  ensure(slot >= 0 && static_cast<std::size_t>(slot) < slot_ready_.size(), "a slot that does not exist became ready");
  const auto index = static_cast<std::size_t>(slot);
  if (slot_ready_[index]) throw InternalError(fmt::format("slot {} became ready twice in one step", slot));
  slot_ready_[index] = true;
  const auto bucket = static_cast<std::size_t>(bucket_of_slot_[index]);
  if (elsewhere) {
    ensure(buckets_[bucket].last_slot - buckets_[bucket].first_slot == 1 && elsewhere->dtype == arrays_[0].dtype &&
               elsewhere->count <= buckets_[bucket].end - buckets_[bucket].begin,
           "elements elsewhere that are not those of a whole bucket");
    elsewhere_[bucket] = elsewhere;
  }
  --missing_[bucket];
  launch_complete_buckets();
  communicator_.progress();
}

void BucketReducer::launch_complete_buckets() {
  // Where a start fails, what is in flight is dropped during this unwinding, the only time it may be.
  struct DropOnError {
    std::vector<Pending>& in_flight;
    std::vector<Buffer>& arrays;
    int exceptions = std::uncaught_exceptions();
    ~DropOnError() {
      if (std::uncaught_exceptions() == exceptions) return;
      in_flight.clear();
      arrays.clear();
    }
  } guard{in_flight_, arrays_};
  while (next_bucket_ < buckets_.size() && missing_[next_bucket_] == 0) {
    const std::optional<Buffer>& elsewhere = elsewhere_[next_bucket_];
    const Bucket& bucket = buckets_[next_bucket_++];
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
      const Buffer all = i == 0 && elsewhere ? *elsewhere : part_of(arrays_[i], bucket.begin, bucket.end);
      if (bucket.scattered > 0) {
        in_flight_.push_back(communicator_.reduce_scatter(part_of(all, 0, bucket.scattered), Reduction::sum));
      }
      if (bucket.scattered < all.count) {
        in_flight_.push_back(communicator_.all_reduce(part_of(all, bucket.scattered, all.count), Reduction::sum));
      }
    }
  }
}

void BucketReducer::finish() {
  ensure(!arrays_.empty(), "reducer finished without being armed");
  // Locals: an exception drops them while it unwinds, and leaves the reducer ready to be armed.
  std::vector<Pending> in_flight = std::exchange(in_flight_, {});
  arrays_.clear();
  const auto late = std::find(slot_ready_.begin(), slot_ready_.end(), false);
  if (late != slot_ready_.end()) {
    throw InternalError(fmt::format("slot {} was never ready", late - slot_ready_.begin()));
  }
  for (Pending& pending : in_flight) pending.wait();
}

}  // namespace credence
