#pragma once

#include <vector>

#include "credence/communication/communicator.h"
#include "credence/posteriors/complexity.h"
#include "credence/training/run_state.h"

namespace credence {

/// Members of an ensemble that are dealt to the ranks in contiguous, equal blocks: each rank draws and updates its own
/// and exchanges no gradients. Decided by what the posterior works on when this is made; on one rank, and where every
/// rank works on all members, nothing is dealt and everything here does nothing.
class DealtMembers {
 public:
  /// `state` and `communicator` must outlive this.
  DealtMembers(RunState& state, Communicator& communicator);

  bool dealt() const { return dealt_; }
  /// Sums of own members become those of all: the same bits for any number of ranks, as zeros are added. Collective.
  void sum(std::vector<kernels::SegmentSums>& sums);
  void sum(std::vector<TermNats>& terms);
  /// Every rank has the values of all members, and works on all. Collective.
  void gather();
  /// Each rank goes on with its own.
  void deal();
  /// Seconds spent so far in sum(), and in gather().
  double waited_seconds() const { return waited_seconds_; }
  double gathering_seconds() const { return gathering_seconds_; }

 private:
  void sum(double* numbers, std::int64_t count);
  void gather(const torch::Tensor& arena, const Layout& layout, const std::vector<int>& member_of_slot);

  RunState& state_;
  Communicator& communicator_;
  MemberRange own_;
  bool dealt_;
  double waited_seconds_ = 0.0;
  double gathering_seconds_ = 0.0;
};

/// The members of one of so many ranks. They divide evenly.
MemberRange members_of_rank(int members, int ranks, int rank);

}  // namespace credence
