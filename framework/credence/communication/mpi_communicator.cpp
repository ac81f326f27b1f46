#include <utility>

#include "credence/communication/factory.h"
#include "credence/communication/mpi_engine.h"
#include "credence/communication/reduction_plan.h"

namespace credence {

namespace {

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiSession& session, const MpiOptions& options)
      : Communicator(session.rank(), session.size()),
        order_(options.order),
        engine_(std::make_shared<MpiEngine>(
            session.state(),
            MpiEngineOptions{options.timeout_seconds, options.progress_thread && session.allows_progress_thread(),
                             options.tag_window})) {}

 private:
  class Operation final : public Pending::Operation {
   public:
    Operation(MpiCommunicator& owner, std::shared_ptr<MpiOperation> operation)
        : owner_(owner), engine_(owner.engine_), operation_(std::move(operation)) {}
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    ~Operation() override {
      if (!operation_->done()) engine_->abandon(operation_);
    }
    void wait() override {
      engine_->wait(operation_);
      owner_.traffic_.bytes_sent += operation_->bytes_sent();
    }

   private:
    MpiCommunicator& owner_;
    std::shared_ptr<MpiEngine> engine_;
    std::shared_ptr<MpiOperation> operation_;
  };

  Pending start_all_reduce(Buffer buffer, Reduction reduction) override {
    if (nothing_to_do(buffer)) return {};
    if (order_ == ReductionOrder::fast) return start(make_library_all_reduce(buffer, reduction, place()));
    if (exchanges_whole_buffer(buffer)) return start(make_exchange_operation(buffer, reduction, place()));
    return start(make_tree_operation(buffer, reduction, TreePhases{true, true}, place()));
  }

  Pending start_reduce_scatter(Buffer buffer, Reduction reduction) override {
    if (nothing_to_do(buffer)) return {};
    if (order_ == ReductionOrder::fast) return start(make_library_reduce_scatter(buffer, reduction, place()));
    return start(make_tree_operation(buffer, reduction, TreePhases{true, false}, place()));
  }

  Pending start_all_gather(Buffer buffer) override {
    if (nothing_to_do(buffer)) return {};
    if (order_ == ReductionOrder::fast) return start(make_library_all_gather(buffer, place()));
    return start(make_tree_operation(buffer, Reduction::sum, TreePhases{false, true}, place()));
  }

  Pending start_broadcast(Buffer buffer, int root) override {
    if (nothing_to_do(buffer)) return {};
    return start(make_broadcast_operation(buffer, root, place()));
  }

  void make_progress() override { engine_->progress(); }

  bool nothing_to_do(const Buffer& buffer) const {
    require(buffer.device == Device::cpu || size() == 1,
            "the MPI backend reduces host memory: device memory on {} ranks needs the NCCL backend", size());
    return buffer.count == 0 || size() == 1;
  }

  MpiPlace place() { return engine_->next_place(); }

  Pending start(std::shared_ptr<MpiOperation> operation) {
    engine_->submit(operation);
    return Pending(std::make_unique<Operation>(*this, std::move(operation)));
  }

  ReductionOrder order_;
  std::shared_ptr<MpiEngine> engine_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MpiSession& session, const MpiOptions& options) {
  require(options.order == ReductionOrder::fast || is_power_of_two(session.size()),
          "tree reduction needs a power of two of ranks, got {}: start another number of them or use --reduction fast",
          session.size());
  require(options.timeout_seconds > 0.0, "the timeout of communication must be positive, got {:g} s",
          options.timeout_seconds);
  return std::make_unique<MpiCommunicator>(session, options);
}

}  // namespace credence
