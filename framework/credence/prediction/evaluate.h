#pragma once

#include <cstdint>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/evaluation.h"
#include "credence/prediction/norm_statistics.h"

namespace credence {

struct EvaluationOptions {
  int samples = 32;          // posterior draws; one is enough, and all that is drawn, where nothing is Gaussian
  std::uint64_t seed = 0;    // of the run; draws are those of Purpose::prediction
  std::int64_t block = 256;  // examples that pass the network together; part of the numbers' last bits
  int ece_bins = 15;
  bool keep_probabilities = false;            // ClassPredictions::probabilities, [N, C] doubles on every rank
  bool surface = false;                       // of two-dimensional inputs, where classes allow one
  std::vector<Statistic> checks = {};         // posterior predictive checks, with `samples` replicated datasets
  std::int64_t kept_bytes = kKeptInputBytes;  // of inputs in memory at a time; no part of the numbers
};

/// `network` is bound to `posterior.weights()` afterwards, also after an error. Every rank opens the same sources.
struct EvaluationParts {
  Network& network;
  Posterior& posterior;
  const Likelihood& likelihood;
  const DataSource& source;
  Communicator& communicator;
  const DataSource* ood = nullptr;       // inputs of the same shape, labels unused: metrics get ood_auroc
  const DataSource* training = nullptr;  // training data, not augmented: the result gets their ELBO
  NormStatistics* norms = nullptr;       // estimated anew under each draw, and at the mean
};

/// The posterior predictive p(y | x) = mean over draws of p(y | x, w_s), with the network in evaluation mode, and the
/// same at the posterior's mean. Collective; same bits for any number of ranks with equal threads each: blocks of
/// examples are fixed, each is computed whole on one rank, and per-example results are gathered before they are summed,
/// in order, in float64.
///
/// Inputs are read in chunks, each once, and pass under every draw: a draw is made anew for each chunk, which costs as
/// much as a small batch, and only running sums are kept. Memory: a chunk (`kept_bytes`), and 8 bytes times this rank's
/// examples times (classes + 4), plus 60 bytes for every example, whatever the number of draws; but 16 bytes times
/// draws for every real-valued target (Mixtures), and 4 times draws for every label that is checked. Mutual
/// information: Houlsby et al. 2011, eq. 2.
///
/// UserError where sources do not fit the network, DataError where they cannot be read, NumericalError naming the
/// example whose output is not finite; all ranks throw alike.
Evaluation evaluate(const EvaluationParts& parts, const EvaluationOptions& options);

}  // namespace credence
