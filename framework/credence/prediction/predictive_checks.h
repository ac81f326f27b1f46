#pragma once

#include <cstdint>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/dataset_sums.h"
#include "credence/prediction/statistics.h"

namespace credence {

/// Replicated datasets, one after the other: targets drawn by Philox noise that is a function of (seed, replicate,
/// example). Sums are kept block by block, so that they are the same for any number of ranks.
class ReplicatedData {
 public:
  ReplicatedData(const Likelihood& likelihood, const BlockShare& share, std::uint64_t seed, int replicates);

  /// Draws the block's targets under these outputs as part of replicate `replicate`, counted from 0.
  void add(const BlockOutputs& block, int replicate);

  /// `predicted`: classes [N] of all examples, where the statistics are of classes. Collective.
  std::vector<PredictiveCheck> checks(const std::vector<Statistic>& statistics,
                                      const std::vector<std::int64_t>& predicted, Communicator& communicator) const;

 private:
  /// T of one column in every replicate, and in the observed data at the end.
  using Values = std::vector<double>;

  void add_labels(const BlockOutputs& block, int replicate, const std::vector<double>& labels);
  void add_numbers(const BlockOutputs& block, int replicate, const std::vector<double>& values);
  void note_numbers(int replicate, std::int64_t block, const std::vector<double>& values);
  Values of_labels(Statistic statistic, const std::vector<std::int64_t>& predicted, Communicator& communicator) const;
  Values of_numbers(Statistic statistic, std::int64_t column, const std::vector<double>& moments) const;

  const Likelihood& likelihood_;
  BlockShare share_;
  std::uint64_t seed_;
  int replicates_;
  std::int64_t columns_;
  std::vector<std::int32_t> labels_;  // [replicates + 1, rows], the observed ones last
  std::vector<double> moments_;       // [replicates + 1, blocks of the dataset, columns, 4]; zero but for own blocks
};

}  // namespace credence
