#pragma once

#include <cstdint>
#include <utility>
#include <vector>

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
    const SamplingPlan& plan;  // the run's: its first shards are the batches
    std::int64_t batches = 16;
  };
  /// UserError where the network has no batch normalisation, or one whose momentum a TorchScript module does not tell.
  NormStatistics(Network& network, const Data& data);
  ~NormStatistics();
  NormStatistics(const NormStatistics&) = delete;
  NormStatistics& operator=(const NormStatistics&) = delete;

  /// Mean over batches of each one's own mean and variance, as Izmailov et al. 2018, sec. 3.2. Without communication:
  /// every rank computes the same.
  void estimate();

 private:
  struct Layer {
    torch::nn::Module* module;
    torch::Tensor mean, variance, counter;
    double momentum;
  };
  void find_layers();

  Network& network_;
  Data data_;
  std::vector<Layer> layers_;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> own_;  // buffers and what they held
};

}  // namespace credence
