#pragma once

#include <vector>

#include "credence/communication/communicator.h"
#include "credence/posteriors/complexity.h"
#include "credence/posteriors/update_share.h"
#include "credence/training/run_state.h"

namespace credence {

/// What of a posterior's update is dealt to the ranks: members of an ensemble in contiguous, equal blocks, where each
/// rank draws and updates its own and exchanges no gradients (decided by what the posterior works on when this is
/// made), or the estimator's UpdateShare. On one rank, and where every rank updates everything, nothing here does
/// anything.
class DealtUpdate {
 public:
  /// All must outlive this.
  DealtUpdate(RunState& state, Communicator& communicator, const UpdateShare& share);

  /// What the optimizer is to update; null: all that the posterior works on.
  const UpdateShare* share() const { return share_.dealt() ? &share_ : nullptr; }
  /// Sums of what each rank updates become those of all: the same bits for any number of ranks, as zeros are added.
  /// Collective.
  void sum(std::vector<kernels::SegmentSums>& sums);
  void sum(std::vector<TermNats>& terms);
  /// After an update: every rank has the weights that the others drew of their shares. Collective.
  void spread_draw();
  /// Every rank has the values of everything, and works on all members. Collective.
  void gather();
  /// Each rank goes on with its own members.
  void deal();
  /// Seconds spent so far in sum() and spread_draw(), and in gather().
  double waited_seconds() const { return waited_seconds_; }
  double gathering_seconds() const { return gathering_seconds_; }

 private:
  void sum(double* numbers, std::int64_t count);
  void gather_members();
  void gather_members(const torch::Tensor& arena, const Layout& layout, const std::vector<int>& member_of_slot);
  void gather_heads(const torch::Tensor& arena);

  RunState& state_;
  Communicator& communicator_;
  const UpdateShare& share_;
  MemberRange own_;
  bool deals_members_;
  double waited_seconds_ = 0.0;
  double gathering_seconds_ = 0.0;
};

/// The members of one of so many ranks. They divide evenly.
MemberRange members_of_rank(int members, int ranks, int rank);

}  // namespace credence
