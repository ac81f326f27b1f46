#pragma once

#include <optional>
#include <vector>

#include "credence/prediction/dataset_sums.h"
#include "credence/prediction/evaluate.h"

namespace credence {

/// The ELBO of the training data while draws pass; nothing where there are none.
class TrainingElbo {
 public:
  TrainingElbo(const EvaluationParts& parts, std::int64_t block, int draws);

  /// For each draw that the network is bound to, an ensemble's member of that number: -log p(w) of priors without a
  /// closed form.
  void charge_priors(int member);
  void add(const BlockOutputs& outputs) { totals_->add(outputs); }
  /// Collective.
  std::optional<ElboEstimate> estimate() const;

 private:
  const EvaluationParts& parts_;
  int draws_;
  std::optional<LikelihoodTotals> totals_;
  std::vector<double> prior_nats_;  // mean over draws
};

}  // namespace credence
