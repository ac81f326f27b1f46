#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "credence/communication/communicator.h"

namespace credence::testing {

/// What goes wrong, where and when. The defaults match every rank, operation and step.
struct Fault {
  enum class Kind {
    delay,  // completes no earlier than `seconds` after its start; the host is free meanwhile
    link,  // likewise, but counted from the end of the previous such operation, as on a link that carries one at a time
    error,  // wait() throws a CommunicationError with `text`, as for an asynchronous error of NCCL
    lost    // `rank` is gone: the operation never completes, on any rank, and wait() runs into the timeout
  };
  static constexpr std::int64_t kAny = -1;

  Kind kind = Kind::delay;
  std::int64_t rank = kAny;
  std::int64_t operation = kAny;  // index of the collective on this communicator, from 0
  std::int64_t step = kAny;       // as told by set_step
  double seconds = 0.0;
  std::string text;
};

/// Any communicator with faults: what the network does to us, on demand and without a network, a GPU or NCCL.
class FaultyCommunicator : public Communicator {
 public:
  /// `inner` must outlive it and be used through it alone.
  FaultyCommunicator(Communicator& inner, std::vector<Fault> faults, double timeout_seconds = 1.0);

  void set_step(std::int64_t step) { step_ = step; }

 private:
  using Clock = std::chrono::steady_clock;
  class Operation;

  Pending start_all_reduce(Buffer buffer, Reduction reduction) override;
  Pending start_reduce_scatter(Buffer buffer, Reduction reduction) override;
  Pending start_all_gather(Buffer buffer) override;
  Pending start_broadcast(Buffer buffer, int root) override;
  void make_progress() override { inner_.progress(); }

  template <class Start>
  Pending start(const char* name, const Buffer& buffer, Start start_inner);
  bool matches(const Fault& fault) const;

  Communicator& inner_;
  std::vector<Fault> faults_;
  double timeout_seconds_;
  std::int64_t operation_ = 0;
  std::int64_t step_ = 0;
  Clock::time_point link_free_ = Clock::time_point::min();
};

}  // namespace credence::testing
