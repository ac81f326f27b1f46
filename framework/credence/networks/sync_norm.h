#pragma once

#include <torch/torch.h>

#include <functional>

#include "credence/networks/norm.h"

namespace credence {

/// Sums over the shards of one step.
struct ShardSums {
  int shards = 1;
  /// Adds up what every shard passes, in place: the same bits on all of them. Collective; none where there is one
  /// shard.
  std::function<void(const torch::Tensor& mine)> sum;
};

/// Batch normalisation over the examples of all shards of a step, each of which runs on a rank of its own: mean and
/// variance, and their share of the gradient, are those of the shards' batches as one. In evaluation, and before it is
/// given sums, plain batch normalisation.
class SyncBatchNorm final : public torch::nn::BatchNorm2dImpl, public NormLayer {
 public:
  explicit SyncBatchNorm(std::int64_t channels) : torch::nn::BatchNorm2dImpl(channels) {}
  torch::Tensor normalize(const torch::Tensor& x) override;
  void zero_scale() override { weight.zero_(); }
  void set_sums(const ShardSums& sums) { sums_ = sums; }

 private:
  void note(const torch::Tensor& mean, const torch::Tensor& variance, std::int64_t count);

  ShardSums sums_;
};

/// Gives every SyncBatchNorm of a network its sums; whether there are any.
bool set_shard_sums(torch::nn::Module& network, const ShardSums& sums);

}  // namespace credence
