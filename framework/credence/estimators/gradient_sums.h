#pragma once

#include <torch/torch.h>

#include <vector>

#include "credence/posteriors/posterior.h"

namespace credence {

/// Sums of gradients over this rank's shards, slot by slot as backward delivers them, in one fixed binary tree over the
/// shards: with log2(shards)+1 partial sums, whatever the number of shards. Where shards or samples draw different
/// noise the sum of eps * gradient is formed beside it. Only of the members of an ensemble that the posterior works on
/// when this is made.
class GradientSums {
 public:
  struct Options {
    int local_shards = 1;
    int samples = 1;
    bool two_sums = false;  // several draws: eps * gradient must be summed too
    /// Slots whose gradient may stay where backward put it, where one pass makes the sum; empty: none. All: no arena.
    std::vector<bool> in_place{};
    /// Slots whose dL/dscale comes by take_scale(), not as eps * gradient; empty: none.
    std::vector<bool> apart{};
  };
  GradientSums(Posterior& posterior, const Options& options);

  void begin_step();
  /// Before the backward pass of one shard's one sample; passes come shard by shard, sample by sample.
  void begin_pass(const kernels::NoiseStream& noise);
  /// One slot's gradient [shape of the slot]; true when the slot's sum over this rank is final.
  bool take(int slot, const torch::Tensor& gradient);
  /// The gradient behind one slot's dL/dscale: of the weights' deviation scale * eps (`times_eps`), or dL/dscale
  /// itself.
  bool take_scale(int slot, const torch::Tensor& gradient, bool times_eps);
  /// The sum of a slot that lies outside of sum(); undefined: inside.
  const torch::Tensor& in_place(int slot) const { return in_place_[static_cast<std::size_t>(slot)]; }
  /// After the backward pass: the first slot that received no gradient, or -1.
  int end_pass();

  /// The sum over the arena and, with two sums, that of eps * gradient: what crosses the network.
  /// Undefined where every slot stays where backward put it, and where there is one sum only.
  torch::Tensor sum() const { return levels_.empty() ? torch::Tensor() : levels_.front().sum; }
  torch::Tensor scaled_sum() const { return levels_.empty() ? torch::Tensor() : levels_.front().scaled; }
  /// The result for the update kernel (empty for other members' slots), after the last pass (and after any reduction of
  /// sum() and scaled_sum()).
  GradientSum result() const;

 private:
  struct Level {
    torch::Tensor sum, scaled;
  };

  bool stays(std::size_t index) const { return !options_.in_place.empty() && options_.in_place[index]; }
  bool is_apart(std::size_t index) const { return !options_.apart.empty() && options_.apart[index]; }
  bool is_last_pass() const { return pass_ == options_.local_shards * options_.samples - 1; }

  Posterior& posterior_;
  Options options_;
  std::vector<Level> levels_;
  std::vector<torch::Tensor> in_place_;
  std::vector<bool> seen_, seen_scale_;
  torch::Tensor scratch_;
  kernels::NoiseStream noise_;
  int pass_ = 0;    // of this step
  int depth_ = 0;   // partial sums below the present shard's
  int merges_ = 0;  // partial sums that the present shard completes
};

}  // namespace credence
