#include "credence/communication/factory.h"

namespace credence {

namespace {

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator() : Communicator(0, 1) {}

 private:
  Pending start_all_reduce(Buffer, Reduction) override { return {}; }
  Pending start_reduce_scatter(Buffer, Reduction) override { return {}; }
  Pending start_all_gather(Buffer) override { return {}; }
  Pending start_broadcast(Buffer, int) override { return {}; }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace credence
