#include "support/faulty_communicator.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

namespace credence::testing {

class FaultyCommunicator::Operation final : public Pending::Operation {
 public:
  Operation(FaultyCommunicator& owner, Pending inner) : owner_(owner), inner_(std::move(inner)) {}

  void wait() override {
    inner_.wait();
    owner_.traffic_.bytes_sent = owner_.inner_.traffic().bytes_sent;
    while (Clock::now() < not_before) {
      owner_.inner_.progress();
      std::this_thread::sleep_until(std::min(not_before, Clock::now() + std::chrono::microseconds(200)));
    }
    if (error) throw CommunicationError(*error);
  }

  Clock::time_point not_before = Clock::time_point::min();
  std::optional<std::string> error;

 private:
  FaultyCommunicator& owner_;
  Pending inner_;
};

FaultyCommunicator::FaultyCommunicator(Communicator& inner, std::vector<Fault> faults, double timeout_seconds)
    : Communicator(inner.rank(), inner.size()),
      inner_(inner),
      faults_(std::move(faults)),
      timeout_seconds_(timeout_seconds) {}

bool FaultyCommunicator::matches(const Fault& fault) const {
  const bool everywhere = fault.kind == Fault::Kind::lost;  // a lost rank is missed by all
  return (everywhere || fault.rank == Fault::kAny || fault.rank == rank()) &&
         (fault.operation == Fault::kAny || fault.operation == operation_) &&
         (fault.step == Fault::kAny || fault.step == step_);
}

template <class Start>
Pending FaultyCommunicator::start(const char* name, const Buffer& buffer, Start start_inner) {
  const auto now = Clock::now();
  auto not_before = Clock::time_point::min();
  std::optional<std::string> error;
  bool lost = false;
  for (const Fault& fault : faults_) {
    if (!matches(fault)) continue;
    const auto delay = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(fault.seconds));
    switch (fault.kind) {
      case Fault::Kind::delay:
        not_before = std::max(not_before, now + delay);
        break;
      case Fault::Kind::link:
        link_free_ = std::max(link_free_, now) + delay;
        not_before = std::max(not_before, link_free_);
        break;
      case Fault::Kind::error:
        error = fmt::format("rank {} in {} {} of {} bytes: {}", rank(), name, operation_, buffer.bytes(), fault.text);
        break;
      case Fault::Kind::lost:
        lost = true;
        not_before = now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_seconds_));
        error = fmt::format("rank {} waited {:.1f} s in {} {} of {} bytes; no answer from rank {}", rank(),
                            timeout_seconds_, name, operation_, buffer.bytes(), fault.rank);
        break;
    }
  }
  ++operation_;
  auto operation = std::make_unique<Operation>(*this, lost ? Pending() : start_inner());
  operation->not_before = not_before;
  operation->error = std::move(error);
  return Pending(std::move(operation));
}

Pending FaultyCommunicator::start_all_reduce(Buffer buffer, Reduction reduction) {
  return start("all-reduce", buffer, [&] { return inner_.all_reduce(buffer, reduction); });
}

Pending FaultyCommunicator::start_reduce_scatter(Buffer buffer, Reduction reduction) {
  return start("reduce-scatter", buffer, [&] { return inner_.reduce_scatter(buffer, reduction); });
}

Pending FaultyCommunicator::start_all_gather(Buffer buffer) {
  return start("all-gather", buffer, [&] { return inner_.all_gather(buffer); });
}

Pending FaultyCommunicator::start_broadcast(Buffer buffer, int root) {
  return start("broadcast", buffer, [&] { return inner_.broadcast(buffer, root); });
}

}  // namespace credence::testing
