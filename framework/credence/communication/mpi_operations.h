// Of the MPI backend only: includes mpi.h.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "credence/communication/communicator.h"

namespace credence {

/// Requests of one operation, with what each of them moves.
class RequestSet {
 public:
  struct Message {
    int peer = 0;
    int phase = 0;
    std::int64_t piece = 0;
    std::int64_t bytes = 0;
    bool incoming = false;
    bool collective = false;  // of the library: no peer, cannot be cancelled
  };

  void send(const void* data, const Message& message, int tag, MPI_Comm comm);
  void receive(void* data, const Message& message, int tag, MPI_Comm comm);
  void add(MPI_Request request, const Message& message);

  /// Messages that have completed since the last call, in `completed`; CommunicationError where one has another length
  /// than expected.
  void poll(std::vector<Message>& completed);

  bool empty() const { return requests_.empty(); }
  const std::vector<Message>& messages() const { return messages_; }
  void cancel_receives();
  /// Whether any request may still write to memory.
  bool writes() const;

 private:
  std::vector<MPI_Request> requests_;
  std::vector<Message> messages_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

/// Phases of an operation, each with its tag.
inline constexpr int kContributions = 0;
inline constexpr int kResults = 1;

/// Pieces of one stream of messages to or from one rank: at most a window of them in flight, completed in any order.
class Stream {
 public:
  static constexpr int kWindow = 8;

  std::int64_t posted() const { return posted_; }
  std::int64_t completed() const { return completed_; }  // all pieces before this one have
  bool open() const { return posted_ - completed_ < kWindow; }
  std::int64_t post() { return posted_++; }
  void complete(std::int64_t piece) {
    ahead_ |= std::uint64_t{1} << (piece - completed_);
    for (; (ahead_ & 1) != 0; ahead_ >>= 1) ++completed_;
  }

 private:
  std::int64_t posted_ = 0;
  std::int64_t completed_ = 0;
  std::uint64_t ahead_ = 0;
};

/// Memory for contributions of other ranks, kept between operations: fresh pages would cost more than the sums. An
/// operation gives back when the last of its owners drops it, on whatever thread: calls may come at the same time.
class StagingPool {
 public:
  using Block = std::vector<std::byte>;
  Block take(std::size_t bytes);
  void give_back(Block block);

 private:
  std::mutex mutex_;
  std::vector<Block> blocks_;
};

/// Where an operation runs: the same on all ranks but for `rank`.
struct MpiPlace {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  int size = 1;
  int tag = 0;  // and tag + 1
  std::shared_ptr<StagingPool> pool;
};

/// A collective as a state machine: start(), then advance() until done(). Nothing in it blocks. All calls with
/// MpiSession::State::calls held, except done(), moves() and describe().
class MpiOperation {
 public:
  MpiOperation(std::string name, const Buffer& buffer, const MpiPlace& place)
      : buffer_(buffer), place_(place), name_(std::move(name)) {}
  virtual ~MpiOperation() = default;
  MpiOperation(const MpiOperation&) = delete;
  MpiOperation& operator=(const MpiOperation&) = delete;

  virtual void start() = 0;
  /// True if something moved.
  bool advance();

  /// Ranks whose messages are missing.
  virtual std::vector<int> waits_for() const;
  /// Gives up: true once MPI writes to none of its memory any more. Call until then.
  bool cancel();

  bool done() const { return done_.load(std::memory_order_acquire); }
  /// Grows whenever something moved.
  std::int64_t moves() const { return moves_.load(std::memory_order_relaxed); }
  std::int64_t bytes_sent() const { return bytes_sent_; }
  /// "all-reduce 12 of 400 bytes"
  std::string describe() const;

  std::int64_t number = 0;  // of the communicator's operations

 protected:
  /// Uses what has arrived; done_ where that was all.
  virtual void handle(const std::vector<RequestSet::Message>& completed) = 0;
  void finish() { done_.store(true, std::memory_order_release); }

  void send(const void* data, int peer, int phase, std::int64_t piece, std::int64_t bytes);
  void receive(void* data, int peer, int phase, std::int64_t piece, std::int64_t bytes);
  std::byte* at(std::int64_t element) const {
    return static_cast<std::byte*>(buffer_.data) + static_cast<std::size_t>(element) * size_of(buffer_.dtype);
  }

  Buffer buffer_;
  MpiPlace place_;
  RequestSet requests_;
  std::int64_t bytes_sent_ = 0;

 private:
  std::string name_;
  std::vector<RequestSet::Message> completed_;
  std::atomic<bool> done_ = false;
  std::atomic<std::int64_t> moves_ = 0;
  bool cancelled_ = false;
};

struct TreePhases {
  bool reduce = true;  // sum everybody's contributions to this rank's chunk
  bool gather = true;  // collect everybody's chunk
};

/// All-reduce, reduce-scatter and all-gather by point-to-point messages with sums in tree order.
std::unique_ptr<MpiOperation> make_tree_operation(const Buffer& buffer, Reduction reduction, TreePhases phases,
                                                  const MpiPlace& place);
/// All-reduce of few bytes: everybody sends all to everybody and adds in tree order.
std::unique_ptr<MpiOperation> make_exchange_operation(const Buffer& buffer, Reduction reduction, const MpiPlace& place);
std::unique_ptr<MpiOperation> make_broadcast_operation(const Buffer& buffer, int root, const MpiPlace& place);

/// The library's own non-blocking collectives.
std::unique_ptr<MpiOperation> make_library_all_reduce(const Buffer& buffer, Reduction reduction, const MpiPlace& place);
std::unique_ptr<MpiOperation> make_library_reduce_scatter(const Buffer& buffer, Reduction reduction,
                                                          const MpiPlace& place);
std::unique_ptr<MpiOperation> make_library_all_gather(const Buffer& buffer, const MpiPlace& place);

}  // namespace credence
