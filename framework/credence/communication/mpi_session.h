#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace credence {

/// MPI from start to end: construct once, first thing in main. Collective. MPI errors are returned, not fatal.
/// Without mpirun or srun the process is rank 0 of 1. UserError where a launcher started several processes that this
/// MPI library sees as separate runs; CommunicationError where ranks that have started do not find together within
/// `start_seconds`. Where MPI_Init itself takes longer, as it does when a rank never comes, it cannot be given up: the
/// process prints one line and exits with 76. The destructor ends MPI after a bounded barrier, but not while an
/// exception unwinds.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv, double start_seconds = 600.0);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const noexcept;
  int size() const noexcept;
  /// Among the ranks that share this host's memory.
  int local_rank() const noexcept;
  int local_size() const noexcept;
  /// Whether the library lets another thread than main make its calls.
  bool allows_progress_thread() const noexcept;
  /// Such as "Open MPI v4.1.4".
  std::string library_version() const;

  struct State;
  State& state() noexcept { return *state_; }

 private:
  std::unique_ptr<State> state_;
  int exceptions_at_start_;
};

/// Ends the process on every rank: call it last in main, with the exit code and, for errors, the line that was logged.
/// 0: barrier (at most the communicators' timeout), MPI_Finalize, exit. 75: barrier, exit. Any other code: tells the
/// other ranks, whose waits then end in a CommunicationError quoting `why`, waits at most 1.5 s for them to leave too,
/// and exits without MPI_Finalize. A rank that leaves with 76 because another one failed takes over that rank's exit
/// code, and so does one that had finished.
///
/// What mpirun then returns (Open MPI 4.1, tried): the code of the ranks, as they all leave with the same one; 76 if a
/// rank was stopped (SIGSTOP) or never came (the others leave with 76, mpirun kills that rank within three seconds);
/// 137 within two seconds if a rank was killed with -9 (mpirun ends the others itself); a rank's own code if it exits
/// without leave(). MPI's "Read -1" lines from ranks that still read from one that is gone mean nothing.
[[noreturn]] void leave(MpiSession& session, int exit_code, std::string_view why = {});

}  // namespace credence
