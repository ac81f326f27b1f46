#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/metrics.h"
#include "credence/prediction/mixtures.h"
#include "credence/prediction/running_sums.h"

namespace credence {

/// What a network gave for one block of examples under one draw.
struct BlockOutputs {
  int draw = 0;
  std::int64_t block = 0;  // of the dataset
  std::int64_t row = 0;    // of the block's first example among this rank's rows
  torch::Tensor outputs;   // [b, outputs]
  const Batch& batch;
};

/// Running sums over draws of one dataset's predictions: this rank's rows.
class PredictionSums {
 public:
  enum class Content : std::uint8_t { scored, inputs_only, inputs_with_spread };
  /// Only `scored` reads labels or targets; with spread the deviation over draws of the last class's probability is
  /// kept.
  PredictionSums(const Likelihood& likelihood, const BlockShare& share, Content content);

  void add(const BlockOutputs& outputs);

  struct Scores {
    Metrics metrics;
    std::optional<ClassPredictions> classes;
    std::optional<RegressionPredictions> regression;
  };
  /// Of all ranks' rows. Collective; NumericalError names the first example that is not finite.
  Scores scores(int draws, int ece_bins, bool keep_probabilities, Communicator& communicator) const;

  /// Of all ranks' rows: entropy of the mean probabilities, the last class's mean probability and its deviation over
  /// draws, divisor `draws`. Collective; errors as above.
  std::vector<double> entropies(int draws, Communicator& communicator) const;
  std::vector<double> last_probabilities(int draws, Communicator& communicator) const;
  std::vector<double> last_probability_stddevs(int draws, Communicator& communicator) const;

 private:
  void add_targets(const BlockOutputs& outputs, const torch::Tensor& targets);
  std::vector<double> collect(Communicator& communicator, std::int64_t width,
                              const std::function<double(std::int64_t index)>& value) const;
  ClassPredictions class_predictions(int draws, int ece_bins, bool keep_probabilities,
                                     Communicator& communicator) const;
  RegressionPredictions regression_predictions(int draws, Communicator& communicator) const;

  const Likelihood& likelihood_;
  BlockShare share_;
  Content content_;
  LogMeanExp log_likelihood_;
  std::vector<double> targets_;  // labels [rows], or values [rows, D]
  std::optional<ClassSums> classes_;
  std::optional<RunningMoments> spread_;  // [rows], of the last class's probability
  std::optional<Mixtures> mixtures_;      // [rows, D] of a regression
};

/// Log likelihood of a whole dataset under each draw; of networks with latent variables the bound that is trained.
class LikelihoodTotals {
 public:
  LikelihoodTotals(const Likelihood& likelihood, const BlockShare& share, int draws);

  void add(const BlockOutputs& outputs);
  /// [draws], nats, blocks added in order. Collective; NumericalError where one is not finite.
  std::vector<double> totals(Communicator& communicator) const;

 private:
  const Likelihood& likelihood_;
  BlockShare share_;
  std::vector<double> of_block_;  // [draws, blocks of the dataset]; zero but for this rank's blocks
};

}  // namespace credence
