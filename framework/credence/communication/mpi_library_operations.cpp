#include <algorithm>
#include <cstring>

#include "credence/communication/mpi_operations.h"
#include "credence/communication/mpi_state.h"
#include "credence/communication/reduction_plan.h"

namespace credence {

namespace {

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return MPI_FLOAT;
    case DType::float64:
      return MPI_DOUBLE;
    case DType::int64:
      return MPI_INT64_T;
    case DType::uint8:
      return MPI_BYTE;
  }
  throw InternalError("an element type without MPI type");
}

MPI_Op mpi_op(Reduction reduction) {
  return reduction == Reduction::sum ? MPI_SUM : MPI_MAX;
}

constexpr std::int64_t kMostElements = std::int64_t{1} << 30;  // MPI counts are int

/// A non-blocking collective of the library. It does not say who is missing, nor what it sends: traffic is that of a
/// ring.
class LibraryOperation : public MpiOperation {
 public:
  using MpiOperation::MpiOperation;

  std::vector<int> waits_for() const override {
    std::vector<int> others;
    for (int rank = 0; rank < place_.size; ++rank) {
      if (rank != place_.rank) others.push_back(rank);
    }
    return others;
  }

 protected:
  void started(MPI_Request request) {
    RequestSet::Message message;
    message.collective = true;
    requests_.add(request, message);
  }

 private:
  void handle(const std::vector<RequestSet::Message>&) override {
    if (!requests_.empty()) return;
    collect();
    finish();
  }
  virtual void collect() {}
};

class LibraryAllReduce final : public LibraryOperation {
 public:
  LibraryAllReduce(const Buffer& buffer, Reduction reduction, const MpiPlace& place)
      : LibraryOperation("all-reduce", buffer, place), reduction_(reduction) {}

  void start() override {
    for (std::int64_t first = 0; first < buffer_.count; first += kMostElements) {
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(
          MPI_Iallreduce(MPI_IN_PLACE, at(first), static_cast<int>(std::min(kMostElements, buffer_.count - first)),
                         mpi_type(buffer_.dtype), mpi_op(reduction_), place_.comm, &request),
          "MPI_Iallreduce");
      started(request);
    }
    bytes_sent_ =
        reduce_scatter_bytes(buffer_, place_.rank, place_.size) + all_gather_bytes(buffer_, place_.rank, place_.size);
  }

 private:
  Reduction reduction_;
};

class LibraryReduceScatter final : public LibraryOperation {
 public:
  LibraryReduceScatter(const Buffer& buffer, Reduction reduction, const MpiPlace& place)
      : LibraryOperation("reduce-scatter", buffer, place), reduction_(reduction) {}

  void start() override {
    const std::int64_t elements = buffer_.count / place_.size;
    require(elements <= kMostElements, "a reduce-scatter of {} elements is too large for MPI", buffer_.count);
    result_.resize(static_cast<std::size_t>(elements) * size_of(buffer_.dtype));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ireduce_scatter_block(buffer_.data, result_.data(), static_cast<int>(elements),
                                        mpi_type(buffer_.dtype), mpi_op(reduction_), place_.comm, &request),
              "MPI_Ireduce_scatter_block");
    started(request);
    bytes_sent_ = reduce_scatter_bytes(buffer_, place_.rank, place_.size);
  }

 private:
  void collect() override {
    std::memcpy(at(chunk_begin(buffer_.count, place_.rank, place_.size)), result_.data(), result_.size());
  }

  Reduction reduction_;
  std::vector<std::byte> result_;
};

class LibraryAllGather final : public LibraryOperation {
 public:
  LibraryAllGather(const Buffer& buffer, const MpiPlace& place) : LibraryOperation("all-gather", buffer, place) {}

  void start() override {
    const std::int64_t elements = buffer_.count / place_.size;
    require(elements <= kMostElements, "an all-gather of {} elements is too large for MPI", buffer_.count);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer_.data, static_cast<int>(elements),
                             mpi_type(buffer_.dtype), place_.comm, &request),
              "MPI_Iallgather");
    started(request);
    bytes_sent_ = all_gather_bytes(buffer_, place_.rank, place_.size);
  }
};

}  // namespace

std::unique_ptr<MpiOperation> make_library_all_reduce(const Buffer& buffer, Reduction reduction,
                                                      const MpiPlace& place) {
  return std::make_unique<LibraryAllReduce>(buffer, reduction, place);
}

std::unique_ptr<MpiOperation> make_library_reduce_scatter(const Buffer& buffer, Reduction reduction,
                                                          const MpiPlace& place) {
  return std::make_unique<LibraryReduceScatter>(buffer, reduction, place);
}

std::unique_ptr<MpiOperation> make_library_all_gather(const Buffer& buffer, const MpiPlace& place) {
  return std::make_unique<LibraryAllGather>(buffer, place);
}

}  // namespace credence
