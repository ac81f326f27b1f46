#include "credence/communication/nccl_communicator.h"

#include <utility>

#include "credence/communication/reduction_plan.h"

namespace credence {

namespace {

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return ncclFloat32;
    case DType::float64:
      return ncclFloat64;
    case DType::int64:
      return ncclInt64;
    case DType::uint8:
      return ncclUint8;
  }
  throw InternalError("an element type without NCCL type");
}

ncclRedOp_t nccl_op(Reduction reduction) {
  return reduction == Reduction::sum ? ncclSum : ncclMax;
}

std::unique_ptr<Communicator> make_host_communicator(MpiSession& session, const NcclOptions& options) {
  MpiOptions host;
  // Scalars keep their bits over rank counts where they can.
  host.order = is_power_of_two(session.size()) ? ReductionOrder::tree : ReductionOrder::fast;
  host.timeout_seconds = options.timeout_seconds;
  return make_mpi_communicator(session, host);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(MpiSession& session, const NcclOptions& options)
      : Communicator(session.rank(), session.size()),
        host_(make_host_communicator(session, options)),
        link_(session, *host_, options) {}

 private:
  class DeviceOperation final : public Pending::Operation {
   public:
    DeviceOperation(NcclLink& link, std::shared_ptr<NcclLink::Flight> flight)
        : link_(link), flight_(std::move(flight)) {}
    void wait() override { link_.join(*flight_); }

   private:
    NcclLink& link_;
    std::shared_ptr<NcclLink::Flight> flight_;
  };

  class HostOperation final : public Pending::Operation {
   public:
    HostOperation(NcclCommunicator& owner, Pending pending) : owner_(owner), pending_(std::move(pending)) {}
    void wait() override {
      const std::int64_t before = owner_.host_->traffic().bytes_sent;
      pending_.wait();
      owner_.traffic_.bytes_sent += owner_.host_->traffic().bytes_sent - before;
    }

   private:
    NcclCommunicator& owner_;
    Pending pending_;
  };

  Pending start_all_reduce(Buffer buffer, Reduction reduction) override {
    if (buffer.device == Device::cpu) return on_host(host_->all_reduce(buffer, reduction));
    // The payload of a ring; NCCL does not tell what it sends.
    const std::int64_t bytes = reduce_scatter_bytes(buffer, rank(), size()) + all_gather_bytes(buffer, rank(), size());
    return on_device("all-reduce", buffer, bytes, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllReduce(buffer.data, buffer.data, count(buffer), nccl_type(buffer.dtype), nccl_op(reduction), comm,
                           stream);
    });
  }

  Pending start_reduce_scatter(Buffer buffer, Reduction reduction) override {
    if (buffer.device == Device::cpu) return on_host(host_->reduce_scatter(buffer, reduction));
    const Buffer mine = own_chunk(buffer);
    return on_device("reduce-scatter", buffer, reduce_scatter_bytes(buffer, rank(), size()),
                     [=](ncclComm_t comm, cudaStream_t stream) {
                       return ncclReduceScatter(buffer.data, mine.data, count(mine), nccl_type(buffer.dtype),
                                                nccl_op(reduction), comm, stream);
                     });
  }

  Pending start_all_gather(Buffer buffer) override {
    if (buffer.device == Device::cpu) return on_host(host_->all_gather(buffer));
    const Buffer mine = own_chunk(buffer);
    return on_device("all-gather", buffer, all_gather_bytes(buffer, rank(), size()),
                     [=](ncclComm_t comm, cudaStream_t stream) {
                       return ncclAllGather(mine.data, buffer.data, count(mine), nccl_type(buffer.dtype), comm, stream);
                     });
  }

  Pending start_broadcast(Buffer buffer, int root) override {
    if (buffer.device == Device::cpu) return on_host(host_->broadcast(buffer, root));
    return on_device(
        "broadcast", buffer, broadcast_bytes(buffer, rank(), root, size()), [=](ncclComm_t comm, cudaStream_t stream) {
          return ncclBroadcast(buffer.data, buffer.data, count(buffer), nccl_type(buffer.dtype), root, comm, stream);
        });
  }

  void make_progress() override {
    link_.throw_if_failed();
    host_->progress();
  }

  static std::size_t count(const Buffer& buffer) { return static_cast<std::size_t>(buffer.count); }

  Buffer own_chunk(Buffer buffer) const {
    buffer.count /= size();
    buffer.data = static_cast<std::byte*>(buffer.data) + static_cast<std::size_t>(rank()) * buffer.bytes();
    return buffer;
  }

  Pending on_host(Pending pending) { return Pending(std::make_unique<HostOperation>(*this, std::move(pending))); }

  template <class Call>
  Pending on_device(const char* name, const Buffer& buffer, std::int64_t bytes, Call call) {
    if (buffer.count == 0 || size() == 1) return {};
    auto flight = link_.enqueue(fmt::format("{} of {} bytes", name, buffer.bytes()), call);
    traffic_.bytes_sent += bytes;
    return Pending(std::make_unique<DeviceOperation>(link_, std::move(flight)));
  }

  std::unique_ptr<Communicator> host_;
  NcclLink link_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session, const NcclOptions& options) {
  require(options.order == ReductionOrder::fast || session.size() == 1,
          "tree reduction needs the MPI backend: use --backend mpi, or --reduction fast");
  require(options.timeout_seconds > 0.0, "the timeout of communication must be positive, got {:g} s",
          options.timeout_seconds);
  return std::make_unique<NcclCommunicator>(session, options);
}

bool nccl_available() noexcept {
  return true;
}

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "does not answer";
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace credence
