#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "credence/communication/bucket_reducer.h"
#include "credence/estimators/gradient_sums.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/complexity.h"
#include "credence/posteriors/posterior.h"

namespace credence {

/// Who draws the same weights: every shard of a step, no two shards, or pairs that draw +eps and -eps.
enum class NoiseSharing : std::uint8_t { shared, shard, antithetic };
NoiseSharing parse_noise(const std::string& text);

/// Sums over all shards and samples of a step, the same on every rank.
struct StepTotals {
  double mean_nll = 0.0;      // nats per example
  double accuracy = 0.0;      // of classification; else 0
  std::vector<double> flags;  // summed over ranks
  bool finite = true;         // whether every shard's loss was
  /// -log p(w) of each tensor of monte_carlo_slots(), nats, mean over draws.
  std::vector<double> prior_nats;
};

/// Reparameterised weight noise, w = mean + scale * eps (Kingma and Welling 2014; Blundell et al. 2015): runs this
/// rank's shards of a step and sums their gradients, the losses and the module buffers over all shards in one fixed
/// tree.
class ReparameterizedEstimator {
 public:
  struct Options {
    std::uint64_t seed = 0;
    int shards = 1;  // S, over all ranks
    int samples = 1;
    NoiseSharing noise = NoiseSharing::shared;
    std::size_t bucket_bytes = std::size_t{4} << 20;
    bool stage_through_host = false;  // arenas on a GPU, communicator in host memory
  };
  struct Parts {
    Network& network;
    Posterior& posterior;
    const Likelihood& likelihood;
    Communicator& communicator;
  };
  ReparameterizedEstimator(const Parts& parts, const Options& options);
  ~ReparameterizedEstimator();

  int first_shard() const { return parts_.communicator.rank() * local_shards_; }
  int local_shards() const { return local_shards_; }
  /// 1 / (shards * samples): turns the sums into means.
  double gradient_multiplier() const;

  /// The gradients of one step; `next_examples` gives this rank's shards in order. Collective. `flags` are summed over
  /// ranks beside the losses. `cross_entropy_weight`: of -log p(w) in the objective, already divided by N, where priors
  /// are charged at draws.
  StepTotals run(std::int64_t step, const std::function<Examples()>& next_examples, std::span<const double> flags,
                 double cross_entropy_weight = 0.0);
  /// Of the last run().
  GradientSum gradient() const { return sums_.result(); }
  /// The draw with which this rank will begin the given step.
  kernels::NoiseStream first_draw(std::int64_t step) const { return stream(step, first_shard(), 0); }

  /// This rank's shards whose loss was not finite in the last run().
  std::vector<int> shards_not_finite() const { return shards_not_finite_; }
  /// Seconds of run() spent in waiting for other ranks.
  double waited_seconds() const { return waited_seconds_; }

 private:
  kernels::NoiseStream stream(std::int64_t step, int shard, int sample) const;
  void take(int slot, const torch::Tensor& gradient);
  void run_pass(std::int64_t step, int local_shard, int sample, const Examples& examples);
  void run_member(int member, int shard, const Examples& examples, std::vector<double>& scalars);
  torch::Tensor charge_priors(int member, const torch::Tensor& loss, std::vector<double>& scalars) const;
  void seed_module(std::int64_t step, int shard, int sample) const;
  void restore_buffers();
  void collect_buffers(int local_shard, int sample);
  std::vector<double> local_scalars(std::span<const double> flags);
  void reduce(std::vector<double>& scalars);
  void reduce_array(const torch::Tensor& array);
  void finish_buffers(std::span<const double> integers);

  Parts parts_;
  Options options_;
  int local_shards_;
  GradientSums sums_;
  std::unique_ptr<BucketReducer> reducer_;  // null where nothing is communicated during backward
  std::vector<std::vector<double>>
      scalars_of_shard_;                         // {nll, correct, not finite, -log p of each tensor}, over samples
  std::vector<torch::Tensor> buffers_of_shard_;  // float buffers, summed over samples
  torch::Tensor buffers_at_start_;
  std::vector<torch::Tensor> integers_at_start_, integers_of_shard_zero_;
  std::vector<int> shards_not_finite_;
  std::int64_t examples_ = 0;  // of this rank's shards in the present step
  std::vector<int> charged_slots_;
  double cross_entropy_weight_ = 0.0;  // of the present step
  int member_ = 0;                     // of the present pass
  double waited_seconds_ = 0.0;
};

}  // namespace credence
