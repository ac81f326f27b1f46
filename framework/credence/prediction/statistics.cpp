#include "credence/prediction/statistics.h"

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

const std::vector<std::string>& statistic_names() {
  static const std::vector<std::string> names = {"mean", "variance", "minimum", "maximum", "accuracy", "class-entropy"};
  return names;
}

}  // namespace

bool is_of_classes(Statistic statistic) {
  return statistic == Statistic::accuracy || statistic == Statistic::class_entropy;
}

std::string name_of(Statistic statistic) {
  return statistic_names()[static_cast<std::size_t>(statistic)];
}

std::vector<Statistic> parse_statistics(const std::string& text, bool classes) {
  std::vector<Statistic> statistics;
  for (const std::string& part : split(text, ',')) {
    const auto& names = statistic_names();
    const auto found = std::find(names.begin(), names.end(), part);
    if (found == names.end()) refuse_unknown("statistic in --check", part, names);
    const auto statistic = static_cast<Statistic>(found - names.begin());
    require(std::find(statistics.begin(), statistics.end(), statistic) == statistics.end(), "--check names {} twice",
            part);
    require(is_of_classes(statistic) == classes,
            "--check {} is a statistic of {}, and these predictions are {}; use {}", part,
            classes ? "numbers" : "classes", classes ? "classes" : "numbers",
            classes ? "accuracy or class-entropy" : "mean, variance, minimum or maximum");
    statistics.push_back(statistic);
  }
  require(!statistics.empty(), "--check needs a statistic, such as mean or accuracy");
  return statistics;
}

PredictiveCheck compare(Statistic statistic, std::span<const double> values, double observed) {
  const std::size_t count = values.size();
  PredictiveCheck check;
  check.statistic = statistic;
  check.observed = observed;
  double squares = 0.0;
  std::size_t reached = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      throw NumericalError(fmt::format("the {} of replicate {} is {}: the network's output is not finite",
                                       name_of(statistic), i, values[i]));
    }
    const double deviation = values[i] - check.replicated_mean;
    check.replicated_mean += deviation / static_cast<double>(i + 1);
    squares += deviation * (values[i] - check.replicated_mean);
    reached += values[i] >= observed ? 1 : 0;
  }
  if (count > 1) check.replicated_stddev = std::sqrt(squares / static_cast<double>(count - 1));
  check.tail_probability = static_cast<double>(reached) / static_cast<double>(count);
  return check;
}

}  // namespace credence
