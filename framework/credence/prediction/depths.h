#pragma once

#include <deque>
#include <vector>

#include "credence/likelihoods/latent.h"
#include "credence/networks/adaptive_depth.h"
#include "credence/networks/network.h"
#include "credence/prediction/dataset_sums.h"
#include "credence/prediction/evaluation.h"

namespace credence {

/// Predictions at every depth of a network whose depth is a latent variable, over draws: this rank's rows. The network
/// must not halt.
class DepthSums {
 public:
  DepthSums(const DepthLikelihood& likelihood, const BlockShare& share);

  void add(const BlockOutputs& outputs);
  /// Collective.
  DepthReport report(int draws, int ece_bins, Communicator& communicator) const;

 private:
  DepthLikelihood likelihood_;
  BlockShare share_;
  std::deque<PredictionSums> at_depth_;  // [L]
  std::vector<double> probabilities_;    // [rows, L], summed over draws
  std::vector<double> modes_;            // [rows], summed over draws, from 1
};

/// As long as it lives a network of adaptive depth computes every block in evaluation mode; others know no halting.
class HaltingOff {
 public:
  explicit HaltingOff(Network& network);
  ~HaltingOff();
  HaltingOff(const HaltingOff&) = delete;
  HaltingOff& operator=(const HaltingOff&) = delete;

 private:
  AdaptiveDepthImpl* network_;
  bool halted_;
};

}  // namespace credence
