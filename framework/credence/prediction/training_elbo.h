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

  /// Of the draw that the network is bound to, -log p(w) of priors without a closed form; draws come in order, and one
  /// that came before is not charged again.
  void charge_priors(int draw);
  void add(const BlockOutputs& outputs) { totals_->add(outputs); }
  /// Collective.
  std::optional<ElboEstimate> estimate() const;

 private:
  std::optional<double> standard_error(const std::vector<double>& totals) const;

  const EvaluationParts& parts_;
  int draws_;
  std::optional<LikelihoodTotals> totals_;
  std::vector<double> prior_of_draw_;  // nats, of all tensors together
  std::vector<double> prior_nats_;     // of each tensor, mean over draws
};

}  // namespace credence
