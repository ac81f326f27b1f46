#include "credence/prediction/training_elbo.h"

#include <cmath>
#include <numeric>

#include "credence/estimators/objective.h"

namespace credence {

TrainingElbo::TrainingElbo(const EvaluationParts& parts, std::int64_t block, int draws) : parts_(parts), draws_(draws) {
  if (parts.training == nullptr) return;
  totals_.emplace(parts.likelihood, BlockShare(parts.training->size(), block, parts.communicator), draws);
}

void TrainingElbo::charge_priors(int draw) {
  if (!totals_ || draw < charged_) return;
  ++charged_;
  const int members = parts_.posterior.plan().members;
  const auto terms = monte_carlo_terms(parts_.posterior, parts_.network.parameters(), draw % members);
  prior_nats_.resize(terms.size(), 0.0);
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if (terms[i].defined()) prior_nats_[i] += terms[i].item<double>() * members / draws_;
  }
}

std::optional<ElboEstimate> TrainingElbo::estimate() const {
  if (!totals_) return std::nullopt;
  const std::vector<double> totals = totals_->totals(parts_.communicator);
  const double mean = std::accumulate(totals.begin(), totals.end(), 0.0) / draws_;
  double squares = 0.0;
  for (const double total : totals) squares += (total - mean) * (total - mean);
  const Objective objective{.dataset_size = parts_.training->size()};
  const ObjectiveValue value =
      evaluate_objective(objective, {}, -mean / static_cast<double>(objective.dataset_size), parts_.posterior.plan(),
                         measure_complexity(parts_.posterior, prior_nats_));
  ElboEstimate estimate;
  estimate.expected_log_likelihood = value.expected_log_likelihood;
  if (draws_ > 1) estimate.standard_error = std::sqrt(squares / (draws_ - 1.0) / draws_);
  if (std::isfinite(value.kl)) {
    estimate.kl = value.kl;
    if (std::isfinite(value.elbo)) estimate.elbo = value.elbo;
  }
  return estimate;
}

}  // namespace credence
