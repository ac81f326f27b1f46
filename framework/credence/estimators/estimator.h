#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/estimators/module_buffers.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/complexity.h"
#include "credence/posteriors/posterior.h"
#include "credence/posteriors/update_share.h"

namespace credence {

/// Who draws the same weights: every shard of a step, no two shards, or pairs that draw +eps and -eps.
enum class NoiseSharing : std::uint8_t { shared, shard, antithetic };
NoiseSharing parse_noise(const std::string& text);

/// Sums over all shards and samples of a step, the same on every rank.
struct StepTotals {
  double mean_nll = 0.0;       // nats per example, under weight draws
  double minimised_nll = 0.0;  // the same, or that of the noise whose gradient this is
  double accuracy = 0.0;       // of classification; else 0
  std::vector<double> flags;   // summed over ranks
  bool finite = true;          // whether every shard's loss was
  /// -log p(w) of each tensor of monte_carlo_slots(), nats, mean over draws.
  std::vector<double> prior_nats;
};

/// The gradient of a step's expected loss with respect to the posterior's arrays, estimated from the draws of this
/// step's shards and samples: the passes of this rank's shards, the sums of losses and module buffers over all of them
/// in one fixed tree. How a pass draws, and how gradients come of it, is the derived class's.
class Estimator {
 public:
  struct Options {
    std::uint64_t seed = 0;
    int shards = 1;  // S, over all ranks
    int samples = 1;
    NoiseSharing noise = NoiseSharing::shared;
    std::size_t bucket_bytes = std::size_t{4} << 20;
    bool stage_through_host = false;  // arenas on a GPU, communicator in host memory
    /// Whoever updates heeds share().
    bool share_update = false;
  };
  struct Parts {
    Network& network;
    Posterior& posterior;
    const Likelihood& likelihood;
    Communicator& communicator;
  };
  /// False where there is one rank, and where each works on members of its own.
  static bool exchanges_gradients(const Parts& parts) {
    return parts.communicator.size() > 1 && parts.posterior.works_on_all();
  }
  virtual ~Estimator();
  Estimator(const Estimator&) = delete;
  Estimator& operator=(const Estimator&) = delete;

  /// Where each rank works on members of an ensemble of its own, it runs all shards.
  int first_shard() const { return exchanges_gradients(parts_) ? parts_.communicator.rank() * local_shards_ : 0; }
  int local_shards() const { return local_shards_; }
  /// 1 / (shards * samples): turns the sums into means.
  double gradient_multiplier() const;

  /// The gradients of one step; `next_examples` gives this rank's shards in order. Collective. `flags` are summed over
  /// ranks beside the losses. `cross_entropy_weight`: of -log p(w) in the objective, already divided by N, where priors
  /// are charged at draws.
  StepTotals run(std::int64_t step, const std::function<Examples()>& next_examples, std::span<const double> flags,
                 double cross_entropy_weight = 0.0);
  /// Of the last run(). Of what is dealt, only what this rank updates holds sums.
  GradientSum gradient() const { return sum_of_gradients(); }
  /// What this rank updates, where the ranks share the work.
  const UpdateShare& share() const { return share_; }
  /// The draw with which this rank will begin the given step.
  kernels::NoiseStream first_draw(std::int64_t step) const { return stream(step, first_shard(), 0); }

  /// This rank's shards whose loss was not finite in the last run().
  std::vector<int> shards_not_finite() const { return shards_not_finite_; }
  /// What a user must know of this estimator on this network; may be empty.
  const std::string& remark() const { return remark_; }
  /// Seconds of run() spent in waiting for other ranks.
  double waited_seconds() const { return waited_seconds_; }

 protected:
  Estimator(const Parts& parts, const Options& options, UpdateShare share = {});

  /// One shard's one sample.
  struct Pass {
    std::int64_t step;
    int local_shard;
    int shard;  // of all ranks'
    int sample;
    kernels::NoiseStream noise;
    const Examples& examples;
  };

  const Parts& parts() const { return parts_; }
  const Options& options() const { return options_; }
  kernels::NoiseStream stream(std::int64_t step, int shard, int sample) const;
  /// The loss with -log p(w) / N of this draw for the priors that have no closed form; notes their nats. `weights`: the
  /// draw by slot of the network.
  torch::Tensor charge_priors(const Pass& pass, const torch::Tensor& nll, const std::vector<torch::Tensor>& weights,
                              int member = 0);
  /// Nats per example, scalars.
  struct Loss {
    torch::Tensor reported;     // under a weight draw
    torch::Tensor minimised{};  // undefined: the same
  };
  /// Counts a loss and the outputs behind the one reported. Once a pass and member.
  void note(const Pass& pass, const Loss& loss, const torch::Tensor& outputs, int member);
  /// Seeds LibTorch's own generator, for modules that draw from it. Before a member's forward pass.
  void seed_module(const Pass& pass, int member) const;
  /// Back to the step's values, where a pass runs the network twice.
  void restore_buffers() { buffers_.restore(); }
  void set_remark(std::string remark) { remark_ = std::move(remark); }
  /// Sums an array over ranks.
  void reduce_array(const torch::Tensor& array);
  static Buffer buffer_of(const torch::Tensor& tensor);

 private:
  virtual void begin_step() = 0;
  /// Draws, runs the network on the pass's examples and keeps the pass's part of the gradient: of every member that the
  /// posterior works on.
  virtual void run_pass(const Pass& pass) = 0;
  /// After the last pass: what the gradient needs of other ranks. Collective.
  virtual void finish_step() = 0;
  virtual GradientSum sum_of_gradients() const = 0;

  void synchronize_norms();
  void run_shard(std::int64_t step, int local_shard, const Examples& examples);
  std::vector<double> local_scalars(std::span<const double> flags);
  void reduce(std::vector<double>& scalars);

  Parts parts_;
  Options options_;
  UpdateShare share_;
  int local_shards_;
  ModuleBuffers buffers_;
  /// {nll reported, nll minimised, correct, not finite} of each member, then -log p of each tensor; of each shard, over
  /// samples.
  std::vector<std::vector<double>> scalars_of_shard_;
  std::string remark_;
  std::vector<int> shards_not_finite_;
  std::int64_t examples_ = 0;  // of this rank's shards in the present step
  std::vector<int> charged_slots_;
  double cross_entropy_weight_ = 0.0;  // of the present step
  double waited_seconds_ = 0.0;
};

}  // namespace credence
