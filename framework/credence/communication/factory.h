#pragma once

#include <memory>
#include <string>

#include "credence/communication/communicator.h"
#include "credence/communication/mpi_session.h"

namespace credence {

struct MpiOptions {
  ReductionOrder order = ReductionOrder::tree;
  /// A wait in which nothing arrives for this long ends in a CommunicationError that names who is missing.
  double timeout_seconds = 600.0;
  /// A thread of the communicator's own makes the MPI calls: only where a core is spare. Otherwise callers poll:
  /// in wait() and in progress().
  bool progress_thread = false;
  /// Operations after which message tags repeat; 0: as many as MPI has.
  int tag_window = 0;
};

/// Host memory over MPI. Collective. `tree` needs a power of two of ranks (UserError). The session must outlive it.
/// Traffic: exactly the payload handed to MPI for `tree`; the bytes of a ring for the library's own collectives
/// (`fast`). An all-reduce moves 2(R-1)/R of the buffer, but at most 256 bytes of float64 or int64 (scalars, flags) go
/// to all ranks in one exchange: times the buffer for half the latency, with the same bits.
std::unique_ptr<Communicator> make_mpi_communicator(MpiSession& session, const MpiOptions& options);

struct NcclOptions {
  ReductionOrder order = ReductionOrder::fast;  // tree: UserError, needs the MPI backend
  double timeout_seconds = 600.0;
  int device = 0;  // CUDA device of this rank, usually its local rank
  /// Stream (cudaStream_t; null: the default stream) that produces and consumes the buffers, asked at every operation.
  std::function<void*()> current_stream = [] { return nullptr; };
};

/// Device memory over NCCL, host memory (scalars, texts, agreement) over MPI. Collective. UserError where this build
/// has no NCCL. Errors and timeouts found by a watching thread abort NCCL's kernels and are thrown by the next call.
std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session, const NcclOptions& options);
bool nccl_available() noexcept;
/// Such as "2.28.9", or why there is none.
std::string nccl_version();

/// One rank, no library.
std::unique_ptr<Communicator> make_self_communicator();

/// Plays rank `rank` of `size` in one process: results as if the other ranks contributed nothing (sums and maxima are
/// this rank's, what others would send stays as it was). Counts the bytes that this rank would send over MPI: for
/// plans.
std::unique_ptr<Communicator> make_rehearsal_communicator(int rank, int size);

}  // namespace credence
