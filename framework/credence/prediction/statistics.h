#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace credence {

/// What is compared between replicated and observed data. Of numbers, column by column: mean, variance (divisor N),
/// minimum, maximum. Of class labels: accuracy, the fraction that is the predicted class, and the entropy in nats of
/// the class frequencies.
enum class Statistic : std::uint8_t { mean, variance, minimum, maximum, accuracy, class_entropy };

/// STAT[,STAT]: mean | variance | minimum | maximum, or accuracy | class-entropy where predictions are `classes`.
/// UserError where it is unknown, twice there, or does not fit the predictions.
std::vector<Statistic> parse_statistics(const std::string& text, bool classes);
bool is_of_classes(Statistic statistic);
std::string name_of(Statistic statistic);

/// A posterior predictive check (Gelman, Meng and Stern 1996): a statistic T of datasets replicated under draws of the
/// weights, against that of the observed one. Tail probabilities near 0 or 1 tell of a misfit.
struct PredictiveCheck {
  Statistic statistic = Statistic::mean;
  std::optional<std::int64_t> column;  // of several targets
  double observed = 0.0;
  double replicated_mean = 0.0;
  std::optional<double> replicated_stddev;  // divisor replicates - 1; none for a single one
  double tail_probability = 0.0;            // fraction of replicates with T(y_rep) >= T(y)
};

/// NumericalError where a replicated statistic is not finite.
PredictiveCheck compare(Statistic statistic, std::span<const double> replicated, double observed);

}  // namespace credence
