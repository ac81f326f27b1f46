#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/dataset_sums.h"

namespace credence {

/// What examples pass through. The network is bound to the weights that are to be used.
struct PassParts {
  Network& network;
  const Likelihood& likelihood;
  Communicator& communicator;
  std::uint64_t seed = 0;  // of the run
};

/// A dataset whose examples pass the network, and who takes the outputs.
struct Subject {
  const DataSource& source;
  BlockShare share;
  std::function<void(const BlockOutputs&)> take;
  std::int64_t first = 0;  // example of the source that is the share's first
};

/// This rank's examples of every subject under the weights that the network is bound to; `draw` names them. UserError
/// where the network's outputs are not what the likelihood reads.
void pass(const PassParts& parts, int draw, std::span<const Subject> subjects);

/// Binds the network to draw `draw` of those that predictions are made of: the same ones in every command, an
/// ensemble's members in turn. How many there are: one for each member where nothing is random, else `samples`, or the
/// next multiple of the members.
void draw_for_prediction(Network& network, Posterior& posterior, std::uint64_t seed, int draw);
int prediction_draws(const Posterior& posterior, int samples);

/// Evaluation mode for as long as it lives, then the network as it was found, bound to the posterior's weights.
class EvaluationMode {
 public:
  EvaluationMode(Network& network, const Posterior& posterior);
  ~EvaluationMode();
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Network& network_;
  const Posterior& posterior_;
  bool was_training_;
};

}  // namespace credence
