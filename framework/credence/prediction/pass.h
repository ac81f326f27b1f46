#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

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

/// A dataset whose examples pass the network, and who takes the outputs under each kind of weights.
struct Subject {
  const DataSource& source;
  BlockShare share;
  std::vector<std::function<void(const BlockOutputs&)>> take;  // by kind; missing or empty: not wanted
  std::int64_t first = 0;                                      // example of the source that is the share's first
};

/// One kind of weights: `bind` binds the network to number 0, 1, ... of `count`, and gives the same each time.
struct WeightSeries {
  int count;
  std::function<void(int)> bind;
};

/// This rank's examples of several subjects as chunks of consecutive blocks, each of which is read once and kept while
/// it passes. Data that fit into one chunk are read once in all.
class Chunks {
 public:
  /// `bytes`: of inputs kept at a time, but never less than one block's.
  Chunks(const PassParts& parts, std::vector<Subject> subjects, std::int64_t bytes);

  /// At least one, which is empty where this rank has no blocks.
  int count() const { return static_cast<int>(ends_.size()); }
  /// Whether anybody takes outputs of the chunk under weights of this kind. An empty chunk is for all of them.
  bool is_for(int chunk, int kind) const;
  /// The chunk under the weights that the network is bound to: number `draw` of this kind. Answers other ranks after
  /// each block. UserError where the network's outputs are not what the likelihood reads.
  void pass(int chunk, int kind, int draw);

 private:
  struct Block {
    std::size_t subject;
    std::int64_t index;
  };
  std::span<const Block> blocks_of(int chunk) const;
  void read(int chunk);

  PassParts parts_;
  std::vector<Subject> subjects_;
  std::vector<Block> blocks_;      // of all chunks
  std::vector<std::size_t> ends_;  // of each chunk in blocks_
  int kept_ = -1;                  // the chunk that batches_ are of
  std::vector<Batch> batches_;
};

/// This rank's examples of every subject under all weights of every kind: each chunk under all of them, then the next.
/// What a subject's taker sees of one example comes in the order of kinds and numbers, however large chunks are.
void pass(const PassParts& parts, std::span<const WeightSeries> weights, std::vector<Subject> subjects,
          std::int64_t bytes);

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
