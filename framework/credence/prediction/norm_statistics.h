#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/data/sampling.h"
#include "credence/networks/network.h"

namespace credence {

/// Statistics of batch normalisation, estimated anew for the weights that a network is bound to: running averages were
/// gathered under other draws of a posterior than the one that predicts. Puts the network's own back at its end.
class NormStatistics {
 public:
  struct Data {
    const DataSource& source;  // the training data, without augmentation
    const SamplingPlan& plan;  // the run's: its first shards are the batches, or steps under a synchronised norm
    std::int64_t batches = 16;
  };
  /// UserError where the network has no batch normalisation, or one whose momentum a TorchScript module does not tell.
  NormStatistics(Network& network, const Data& data);
  ~NormStatistics();
  NormStatistics(const NormStatistics&) = delete;
  NormStatistics& operator=(const NormStatistics&) = delete;

  /// Of every layer, mean and variance, float64.
  using Values = std::vector<std::pair<torch::Tensor, torch::Tensor>>;
  /// Mean over batches of each one's own mean and variance, as Izmailov et al. 2018, sec. 3.2. Not collective: every
  /// rank computes the same, and answers the others after each batch. Batches are read once where they fit into
  /// kKeptInputBytes.
  Values estimate(Communicator& communicator);
  void use(const Values& values);

 private:
  struct Layer {
    torch::nn::Module* module;
    torch::Tensor mean, variance, counter;
    double momentum;
  };
  void find_layers();
  const Batch& batch(std::int64_t index);

  Network& network_;
  Data data_;
  bool over_shards_ = false;  // training normalised over all examples of a step
  std::vector<Layer> layers_;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> own_;  // buffers and what they held
  std::vector<Batch> kept_;                                   // the first batches
  std::int64_t kept_bytes_ = 0;
  Batch other_;
};

}  // namespace credence
