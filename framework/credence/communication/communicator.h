#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "credence/base/dtype.h"
#include "credence/base/errors.h"

namespace credence {

enum class Reduction : std::uint8_t { sum, max };

/// How sums over ranks are formed. tree: exchange chunks, add in the order of one fixed binary tree over the ranks,
/// gather: the bytes of a ring all-reduce, and bits that do not depend on how shards are dealt to ranks (needs a power
/// of two of ranks). fast: the library's own all-reduce.
enum class ReductionOrder : std::uint8_t { tree, fast };

/// Contiguous elements that somebody else owns and keeps alive until the operation is waited for.
struct Buffer {
  void* data = nullptr;
  std::int64_t count = 0;
  DType dtype = DType::float32;
  Device device = Device::cpu;

  std::size_t bytes() const { return static_cast<std::size_t>(count) * size_of(dtype); }
};

/// A collective in flight. On CPU wait() blocks until it is done, at most the communicator's timeout; on CUDA it orders
/// the current stream after it. Dropping one unwaited outside of unwinding is a bug and terminates. Must not outlive
/// its communicator.
class [[nodiscard]] Pending {
 public:
  struct Operation {
    virtual ~Operation() = default;
    virtual void wait() = 0;
  };
  Pending() = default;
  explicit Pending(std::unique_ptr<Operation> operation) : operation_(std::move(operation)) {}
  Pending(Pending&&) noexcept = default;
  Pending& operator=(Pending&&) noexcept;
  ~Pending();
  void wait();
  bool valid() const noexcept { return operation_ != nullptr; }

 private:
  std::unique_ptr<Operation> operation_;
};

/// What this rank sent, counted where the bytes leave (payload, without headers).
struct Traffic {
  std::int64_t bytes_sent = 0;
  std::int64_t operations = 0;
  double waited_seconds = 0.0;  // in wait(): communication that nothing hid
};

/// The processes that train together. Every operation is collective: all ranks call in the same order with equal
/// counts and types. Errors are CommunicationErrors that name rank, operation, bytes and the rank that is missing.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }

  /// In place.
  Pending all_reduce(Buffer buffer, Reduction reduction);
  /// In place over size() equal chunks; afterwards chunk rank() holds its sum, the other chunks are unspecified.
  Pending reduce_scatter(Buffer buffer, Reduction reduction);
  /// In place over size() equal chunks, of which this rank filled chunk rank().
  Pending all_gather(Buffer buffer);
  Pending broadcast(Buffer buffer, int root);
  void barrier();

  /// True if any rank says so.
  bool any(bool mine);
  /// Whether a condition that may differ between ranks failed somewhere: every rank passes its own failure or none;
  /// if any rank has one, all throw the failure of the lowest such rank (same kind and text, with its context; where
  /// there is more than one rank, origin_of() the error names it).
  void agree(const std::optional<std::pair<ExitCode, std::string>>& mine);
  /// Rank `root`'s text on every rank.
  std::string broadcast_text(std::string text, int root);
  /// Every rank's text on every rank, in rank order.
  std::vector<std::string> gather_texts(const std::string& mine);

  /// Advances what is in flight without blocking; cheap. Called by gradient hooks where no thread is spare.
  void progress() { make_progress(); }

  const Traffic& traffic() const noexcept { return traffic_; }

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  Traffic traffic_;

 private:
  virtual Pending start_all_reduce(Buffer buffer, Reduction reduction) = 0;
  virtual Pending start_reduce_scatter(Buffer buffer, Reduction reduction) = 0;
  virtual Pending start_all_gather(Buffer buffer) = 0;
  virtual Pending start_broadcast(Buffer buffer, int root) = 0;
  virtual void make_progress() {}

  struct Tracked;
  /// Notes the memory as in use until the operation is waited for or abandoned.
  Pending track(const Buffer& buffer, Pending pending);
  void check(const char* operation, const Buffer& buffer) const;

  int rank_;
  int size_;
  std::shared_ptr<std::vector<Buffer>> in_flight_ = std::make_shared<std::vector<Buffer>>();
};

/// Runs `work` on this rank, then agrees: where it threw an Error on any rank, all ranks throw the same kind. A
/// CommunicationError goes straight through: there is nobody left to agree with. `work` itself must not communicate
/// where another rank may already have failed.
void collectively(Communicator& communicator, const std::function<void()>& work);

/// Runs `work`, which must not communicate, on a thread of its own while this one answers the other ranks, so that they
/// know it works: for what one rank does alone and may take long, such as reading large files. Throws what it throws.
void work_aside(Communicator& communicator, const std::function<void()>& work);

}  // namespace credence
