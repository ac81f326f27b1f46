#pragma once

#include <cstdint>
#include <vector>

#include "credence/prediction/dataset_sums.h"
#include "credence/prediction/evaluate.h"

namespace credence {

/// Running sums over draws of what a generative network says of one dataset's examples: this rank's rows. Memory does
/// not grow with the draws.
class GenerativeSums {
 public:
  GenerativeSums(const Likelihood& likelihood, const BlockShare& share);

  void add(const BlockOutputs& outputs);

  /// Of all ranks' rows, nats, [N]: the mean over draws of the ELBO of each example, and its importance-weighted bound
  /// (Burda et al. 2016) with that many samples, each with its own draw of weights and of z. Collective; NumericalError
  /// names the first example that is not finite.
  struct Bounds {
    std::vector<double> elbo, importance;
  };
  Bounds bounds(int draws, Communicator& communicator) const;

 private:
  const Likelihood& likelihood_;
  BlockShare share_;
  LogMeanExp weight_;
  RunningMoments elbo_;
};

/// What evaluate() does where the likelihood describes inputs: samples of the importance-weighted bound are
/// options.samples draws of weights, each with a z of its own for every example. Metrics at the posterior's mean are of
/// as many samples. With keep_probabilities and images a Gallery too. As evaluate() otherwise, in whose evaluation mode
/// it is called.
Evaluation evaluate_generative(const EvaluationParts& parts, const EvaluationOptions& options);

}  // namespace credence
