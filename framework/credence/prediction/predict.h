#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"
#include "credence/prediction/blocks.h"

namespace credence {

/// Consecutive examples of a source; labels are not looked at.
struct PredictionInput {
  const DataSource& source;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// The posterior predictive of inputs without labels, by input. Of a classification the class fields are filled, else
/// those of numbers; for several Bernoulli columns the numbers are probabilities and there are no quantiles.
struct InputPredictions {
  std::int64_t examples = 0;  // N
  int samples = 0;            // draws behind each

  std::int64_t classes = 0;                // C
  std::vector<std::int64_t> predicted;     // [N], the first of the most probable classes
  std::vector<double> probabilities;       // [N, C], mean over draws
  std::vector<double> probability_stddev;  // [N, C], over draws, divisor S
  std::vector<double> entropy;             // [N], nats, of the mean probabilities
  std::vector<double> mutual_information;  // [N], nats, of label and weights

  std::int64_t columns = 0;          // D
  std::vector<double> mean;          // [N, D]
  std::vector<double> stddev;        // [N, D], of the predictive, observation noise included
  std::vector<double> mean_stddev;   // [N, D], of a draw's mean, over draws, divisor S: what more data could remove
  std::vector<double> lower, upper;  // [N, D], quantiles at 5 % and 95 % of the predictive
};

struct PredictOptions {
  int samples = 32;                           // posterior draws, the ones that evaluate() takes
  std::uint64_t seed = 0;                     // of the run
  std::int64_t block = 256;                   // examples that pass the network together
  std::int64_t kept_bytes = kKeptInputBytes;  // of inputs in memory at a time; no part of the numbers
};

struct PredictParts {
  Network& network;
  Posterior& posterior;
  const Likelihood& likelihood;
  Communicator& communicator;
};

/// Predictions for every input, in order, the same bits on every rank and for any number of them. Collective. The
/// network is bound to the posterior's weights afterwards. DataError where an input cannot be read, NumericalError
/// naming the example whose prediction is not finite; all ranks throw alike.
std::vector<InputPredictions> predict(const PredictParts& parts, std::span<const PredictionInput> inputs,
                                      const PredictOptions& options);

}  // namespace credence
