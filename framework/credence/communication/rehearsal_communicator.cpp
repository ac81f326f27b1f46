#include "credence/communication/factory.h"
#include "credence/communication/reduction_plan.h"

namespace credence {

namespace {

class RehearsalCommunicator final : public Communicator {
 public:
  RehearsalCommunicator(int rank, int size) : Communicator(rank, size) {}

 private:
  Pending start_all_reduce(Buffer buffer, Reduction) override {
    return count(all_reduce_bytes(buffer, rank(), size()));
  }
  Pending start_reduce_scatter(Buffer buffer, Reduction) override {
    return count(reduce_scatter_bytes(buffer, rank(), size()));
  }
  Pending start_all_gather(Buffer buffer) override { return count(all_gather_bytes(buffer, rank(), size())); }
  Pending start_broadcast(Buffer buffer, int root) override {
    return count(broadcast_bytes(buffer, rank(), root, size()));
  }

  Pending count(std::int64_t bytes) {
    traffic_.bytes_sent += bytes;
    return {};
  }
};

}  // namespace

std::unique_ptr<Communicator> make_rehearsal_communicator(int rank, int size) {
  require(size > 0 && rank >= 0 && rank < size, "a rehearsal plays one rank of at least one: got rank {} of {}", rank,
          size);
  return std::make_unique<RehearsalCommunicator>(rank, size);
}

}  // namespace credence
