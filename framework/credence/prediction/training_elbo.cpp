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
  if (!totals_ || draw < static_cast<int>(prior_of_draw_.size())) return;
  const int members = parts_.posterior.plan().members;
  const auto terms = monte_carlo_terms(parts_.posterior, parts_.network.parameters(), draw % members);
  prior_nats_.resize(terms.size(), 0.0);
  double& of_draw = prior_of_draw_.emplace_back();
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if (!terms[i].defined()) continue;  // of another member
    const double nats = terms[i].item<double>();
    prior_nats_[i] += nats * members / draws_;
    of_draw += nats;
  }
}

std::optional<ElboEstimate> TrainingElbo::estimate() const {
  if (!totals_) return std::nullopt;
  const std::vector<double> totals = totals_->totals(parts_.communicator);
  const double mean = std::accumulate(totals.begin(), totals.end(), 0.0) / draws_;
  const Objective objective{.dataset_size = parts_.training->size()};
  const ObjectiveValue value =
      evaluate_objective(objective, {}, -mean / static_cast<double>(objective.dataset_size), parts_.posterior.plan(),
                         measure_complexity(parts_.posterior, prior_nats_));
  ElboEstimate estimate;
  estimate.expected_log_likelihood = value.expected_log_likelihood;
  estimate.standard_error = standard_error(totals);
  if (std::isfinite(value.kl)) {
    estimate.kl = value.kl;
    if (std::isfinite(value.elbo)) estimate.elbo = value.elbo;
  }
  return estimate;
}

/// Every member of an ensemble is there: only its draws are chance.
std::optional<double> TrainingElbo::standard_error(const std::vector<double>& totals) const {
  const int members = parts_.posterior.plan().members;
  const int each = draws_ / members;
  if (each < 2) return std::nullopt;
  double squares = 0.0;
  for (int member = 0; member < members; ++member) {
    std::vector<double> bounds;
    for (int draw = member; draw < draws_; draw += members) {
      const auto at = static_cast<std::size_t>(draw);
      bounds.push_back(totals[at] - prior_of_draw_[at]);
    }
    const double mean = std::accumulate(bounds.begin(), bounds.end(), 0.0) / each;
    for (const double bound : bounds) squares += (bound - mean) * (bound - mean);
  }
  return std::sqrt(squares / (each - 1.0) / each) / members;
}

}  // namespace credence
