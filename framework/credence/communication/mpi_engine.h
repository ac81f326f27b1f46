// Of the MPI backend only: includes mpi.h.
#pragma once

#include <mpi.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "credence/communication/mpi_operations.h"
#include "credence/communication/mpi_state.h"

namespace credence {

struct MpiEngineOptions {
  double timeout_seconds = 600.0;
  bool thread = false;
  int tag_window = 0;
};

/// Advances the operations of one communicator. Without a thread every call polls on the calling thread; with one, that
/// thread alone makes the MPI calls of operations, and waits sleep until it wakes them.
class MpiEngine {
 public:
  /// Collective: duplicates MPI_COMM_WORLD.
  MpiEngine(MpiSession::State& state, const MpiEngineOptions& options);
  ~MpiEngine();
  MpiEngine(const MpiEngine&) = delete;
  MpiEngine& operator=(const MpiEngine&) = delete;

  /// Where the next operation runs, with tags that no operation in flight has.
  MpiPlace next_place();
  void submit(const std::shared_ptr<MpiOperation>& operation);
  void wait(const std::shared_ptr<MpiOperation>& operation);
  /// An operation whose memory is about to go away, unfinished: this communicator is unusable afterwards.
  void abandon(const std::shared_ptr<MpiOperation>& operation) noexcept;
  void progress();

 private:
  void duplicate_world();
  /// With State::calls held.
  void leave_board();
  /// True if something moved. With State::calls held.
  bool advance_all();
  /// Throws what another rank said about its failure. With State::calls held.
  void heed_notices(bool answer = true);
  void wait_polling(const MpiOperation& operation);
  void wait_for_thread(const MpiOperation& operation);
  /// Where the patience of a wait has ended: tells all and throws if there is no hope. With State::calls held.
  void look_around(const MpiOperation& operation, Patience& patience);
  /// Remembers the first failure, for all later calls, and throws it.
  [[noreturn]] void fail(const std::string& text);
  void throw_if_failed();
  void run_thread();
  std::string activity();
  /// Whether the thread that calls waits here or has called lately, so that the progress thread may answer for it.
  bool caller_is_there();

  MpiSession::State& state_;
  MpiEngineOptions options_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::int64_t tags_ = 0;     // operations before tags repeat
  std::int64_t started_ = 0;  // operations so far
  std::shared_ptr<StagingPool> pool_ = std::make_shared<StagingPool>();
  std::vector<std::shared_ptr<MpiOperation>> in_flight_;  // with State::calls held

  std::mutex mutex_;  // of what follows; taken after State::calls, never before
  std::vector<std::shared_ptr<MpiOperation>> submitted_;
  std::optional<std::string> failure_;
  const MpiOperation* waited_for_ = nullptr;
  bool stop_ = false;
  std::condition_variable work_;
  std::condition_variable done_;
  std::thread thread_;
};

}  // namespace credence
