// Of the MPI backend only: includes mpi.h.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "credence/base/stopwatch.h"
#include "credence/communication/mpi_session.h"

namespace credence {

/// CommunicationError with MPI's own text where `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

/// Waits for a request of all ranks before they have a NoticeBoard. CommunicationError says for what, after the limit.
void complete_at_start(MPI_Request& request, double limit_seconds, const char* what);

/// A rank that failed, as it told the others.
struct RankFailure {
  int origin = 0;
  int exit_code = 0;
  std::string text;
};

/// Small messages between ranks outside of all collectives: "I failed", "I leave", "do you answer?". They are handled
/// whenever a rank polls: in waits, in progress, while it leaves. All calls with State::calls held.
class NoticeBoard {
 public:
  void open(MPI_Comm world, double limit_seconds);
  void close();

  /// `answer`: whether this rank may say that it is there; else questions stay without answer.
  void poll(bool answer = true);
  /// Remembers this rank's failure and tells everybody, once. Never blocks; makes no progress on anything else.
  void announce_failure(int exit_code, const std::string& text);
  /// `blind`: this rank cannot look at messages any more.
  void announce_leaving(bool blind);

  const std::optional<RankFailure>& failure() const { return failure_; }
  /// Since the first failure that is known here, of this rank or another: the same on all ranks of a machine, so that
  /// they end together. 0 without one.
  double seconds_since_failure() const;
  bool all_left() const;
  bool any_blind() const { return any_blind_; }
  /// When the last rank left, as far as known here: nanoseconds of the steady clock.
  std::int64_t last_leaving() const { return last_leaving_; }

  /// Asks every other rank what it does. Answers trickle in while polling.
  void ask();
  /// Text per rank: empty where no answer came since ask().
  const std::vector<std::string>& answers() const { return answers_; }
  bool all_answered() const;

  /// The answer of a rank that is not in a collective: it computes, and looks at messages meanwhile.
  static constexpr const char* kWorking = "outside of all collectives";
  /// What the answer of a rank begins with that makes no further collective.
  static constexpr const char* kLeaving = "leaving";
  /// What this rank answers: the first text that is not empty, else kWorking.
  std::vector<std::pair<const void*, std::function<std::string()>>> activities;  // with whoever added it

  MPI_Comm communicator() const { return comm_; }

 private:
  enum class Kind : int { failure, leaving, question, answer };
  struct Notice {
    Kind kind = Kind::failure;
    int exit_code = 0;
    int question = 0;
    std::int64_t instant = 0;  // steady clock, where it is the same machine's
    char text[1000] = {};  // 1 KiB together: below the eager limit of every transport, so that sending needs no partner
  };
  struct Outgoing {
    Notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void send(const Notice& notice, int rank);
  void send_to_all(const Notice& notice);
  void receive();
  void handle(const Notice& notice, int source, bool answer);
  void note_failure(std::int64_t instant);
  std::string activity() const;
  static Notice make(Kind kind, int exit_code, const std::string& text);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  Notice incoming_;
  MPI_Request incoming_request_ = MPI_REQUEST_NULL;
  std::list<Outgoing> outgoing_;
  std::optional<RankFailure> failure_;
  std::int64_t first_failure_ = 0;  // 0: none
  bool announced_ = false;
  std::vector<bool> left_;
  bool any_blind_ = false;
  std::int64_t last_leaving_ = 0;
  int question_ = 0;
  std::vector<std::string> answers_;
};

/// Nanoseconds of the steady clock, which processes of one machine share.
std::int64_t steady_instant();

/// A process, told from a later one with the same number by its start.
struct LocalProcess {
  std::int64_t pid = 0;
  std::int64_t start_ticks = 0;  // since boot; of /proc
  static LocalProcess self();
  /// Neither gone nor a zombie.
  bool runs() const;
};

struct MpiSession::State {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int thread_level = MPI_THREAD_SINGLE;
  std::vector<std::string> hosts;  // of every rank
  /// Ranks of this machine whose processes can be seen from here, this one excepted.
  std::vector<std::pair<int, LocalProcess>> neighbours;
  double timeout_seconds = 0.0;  // of the last barrier: the longest of the communicators, 0 without one
  std::mutex calls;              // whoever makes MPI calls holds it: one thread at a time
  /// When the thread that calls communicators last did, in nanoseconds of the steady clock: a progress thread answers
  /// for it only so long.
  std::atomic<std::int64_t> last_call = 0;
  NoticeBoard notices;
  /// Memory that MPI may still write to is gone: nothing that could make progress may be called any more.
  bool unsafe = false;
  std::vector<std::shared_ptr<void>> given_up;  // operations whose own memory MPI may still use

  /// Of the neighbours, the first whose process is gone without a word; looks at most every 0.1 s. -1: none.
  int lost_neighbour();
  Stopwatch since_look;

  /// "rank 3 on node17"
  std::string name_of_rank(int rank) const;
};

/// How long one wait goes on in which nothing arrives. After the timeout all ranks are asked what they do: one that
/// gives no answer within a second is lost, and if all are in other operations or leave they will not come; but one
/// that works is waited for, and asked again after another timeout, so that only silence ends a wait.
class Patience {
 public:
  Patience(MpiSession::State& state, double timeout_seconds) : state_(state), timeout_seconds_(timeout_seconds) {}

  /// Tells of a count that grows whenever something arrives.
  void saw(std::int64_t moves);
  bool ended() const { return asking_ || quiet_.seconds() > timeout_seconds_; }
  /// Call while ended(), with State::calls held and messages polled in between. `awaited`: ranks whose messages are
  /// missing, none where that is not known. Why the wait is hopeless; empty: it goes on.
  std::string look(const std::vector<int>& awaited);
  /// Without anything that arrived.
  double seconds() const { return unmoved_.seconds(); }

 private:
  bool one_works() const;
  bool one_left(const std::vector<int>& awaited) const;
  void tell_who_works() const;
  std::string blame(const std::vector<int>& awaited) const;

  MpiSession::State& state_;
  double timeout_seconds_;
  Stopwatch unmoved_;
  Stopwatch quiet_;  // since something arrived, or a rank said that it works
  std::optional<Stopwatch> asking_;
  std::int64_t moves_ = 0;
};

}  // namespace credence
