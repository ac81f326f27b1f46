#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <span>
#include <vector>

#include "credence/networks/network.h"

namespace credence {

/// A network's buffers (batch-norm statistics) over one step: every pass starts from the step's values; afterwards
/// float buffers are averaged over all passes, integer ones are taken from the first pass of shard 0.
class ModuleBuffers {
 public:
  ModuleBuffers(Network& network, int local_shards);

  void begin_step();
  void restore();
  /// After a pass; `first_of_all`: sample 0 of shard 0 of the whole step.
  void collect(int local_shard, bool first_sample, bool first_of_all);

  /// Integer buffers in float64, to be summed over ranks: those that this rank took from shard 0, else zeros.
  std::vector<double> integers() const;
  /// The sum of float buffers over this rank's passes in one fixed tree; undefined where there are none.
  torch::Tensor sum_over_shards();
  /// Writes the step's result into the network, from the sums over ranks.
  void finish(double multiplier, std::span<const double> integers);

 private:
  Network& network_;
  std::vector<torch::Tensor> sums_;  // per shard, over its samples
  torch::Tensor at_start_;
  std::vector<torch::Tensor> integers_at_start_, integers_of_shard_zero_;
};

}  // namespace credence
