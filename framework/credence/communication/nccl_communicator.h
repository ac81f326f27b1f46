// Of the NCCL backend only: includes nccl.h and mpi.h.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "credence/communication/factory.h"
#include "credence/communication/mpi_state.h"

namespace credence {

/// Owns a CUDA event without timing.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  void record(cudaStream_t stream);
  bool reached() const;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// One NCCL communicator and the thread that watches what it has in flight. A failure (asynchronous error, timeout,
/// another rank's notice) aborts NCCL, so that its kernels end and nobody waits for the device for ever.
class NcclLink {
 public:
  /// An operation on the device.
  struct Flight {
    CudaEvent ready;  // its inputs are there
    CudaEvent done;
    std::string description;
    std::int64_t number = 0;  // of the link's flights, from 1
  };

  /// Collective; `host` carries the unique id.
  NcclLink(MpiSession& session, Communicator& host, const NcclOptions& options);
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  /// Enqueues `call` (comm, stream) behind the current stream.
  std::shared_ptr<Flight> enqueue(std::string description,
                                  const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);
  /// The current stream continues after the flight.
  void join(const Flight& flight);
  void throw_if_failed();

 private:
  void initialize(Communicator& host);
  /// Until a non-blocking call is through. CommunicationError where it fails or its wait is hopeless.
  void complete(const char* call, ncclResult_t result);
  void watch();
  std::optional<std::string> trouble(Patience& patience);
  std::optional<std::string> failure_of_another_rank();
  /// Why a wait is hopeless whose patience has ended; empty: a rank works outside of NCCL, or there is still time to
  /// answer.
  std::string look_around(Patience& patience);
  /// What this rank answers to others: what it has in NCCL, if anything.
  std::string activity();
  void leave_board();
  /// Aborts NCCL and tells the other ranks.
  void fail(const std::string& text);
  void abort();

  MpiSession& session_;
  NcclOptions options_;
  cudaStream_t stream_ = nullptr;

  std::mutex nccl_;  // of comm_: calls on it, and its end
  ncclComm_t comm_ = nullptr;

  std::mutex mutex_;  // of what follows
  std::deque<std::shared_ptr<Flight>> in_flight_;
  std::optional<std::string> failure_;
  std::string calling_;  // what the main thread waits for inside of NCCL's own calls
  std::int64_t started_ = 0;
  bool stop_ = false;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace credence
