#include "credence/prediction/predictive_checks.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "credence/base/errors.h"
#include "credence/prediction/replicates.h"

namespace credence {
namespace {

/// Of one block's numbers, or of several blocks'.
struct Moments {
  double mean = 0.0, squares = 0.0;  // squares: sum of squared deviations from the mean
  double minimum = 0.0, maximum = 0.0;
};
constexpr std::int64_t kMoments = 4;

/// Chan, Golub and LeVeque 1979.
Moments merged(const Moments& a, double count_a, const Moments& b, double count_b) {
  if (count_a == 0.0) return b;
  const double count = count_a + count_b;
  const double difference = b.mean - a.mean;
  return {a.mean + difference * count_b / count,
          a.squares + b.squares + difference * difference * count_a * count_b / count, std::min(a.minimum, b.minimum),
          std::max(a.maximum, b.maximum)};
}

}  // namespace

ReplicatedData::ReplicatedData(const Likelihood& likelihood, const BlockShare& share, std::uint64_t seed,
                               int replicates)
    : likelihood_(likelihood),
      share_(share),
      seed_(seed),
      replicates_(replicates),
      columns_(target_columns(likelihood)) {
  if (is_classification(likelihood)) {
    labels_.resize(static_cast<std::size_t>((replicates + 1) * share.rows()));
  } else {
    moments_.resize(static_cast<std::size_t>((replicates + 1) * share.blocks * columns_ * kMoments));
  }
}

void ReplicatedData::add(const BlockOutputs& block, int replicate) {
  const ReplicateKey key{.seed = seed_, .replicate = replicate, .example = share_.begin(block.block)};
  const std::vector<double> targets = replicate_targets(likelihood_, block.outputs, key);
  if (is_classification(likelihood_)) {
    add_labels(block, replicate, targets);
  } else {
    add_numbers(block, replicate, targets);
  }
}

void ReplicatedData::add_labels(const BlockOutputs& block, int replicate, const std::vector<double>& labels) {
  std::ranges::transform(labels, labels_.begin() + replicate * share_.rows() + block.row,
                         [](double label) { return static_cast<std::int32_t>(label); });
  if (replicate > 0) return;
  std::int32_t* observed = labels_.data() + replicates_ * share_.rows() + block.row;
  for (std::int64_t i = 0; i < block.batch.size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    observed[i] = static_cast<std::int32_t>(block.batch.labels.empty() ? std::lround(block.batch.targets[at])
                                                                       : block.batch.labels[at]);
  }
}

void ReplicatedData::add_numbers(const BlockOutputs& block, int replicate, const std::vector<double>& values) {
  note_numbers(replicate, block.block, values);
  if (replicate > 0) return;
  note_numbers(replicates_, block.block, {block.batch.targets.begin(), block.batch.targets.end()});
}

void ReplicatedData::note_numbers(int replicate, std::int64_t block, const std::vector<double>& values) {
  const auto columns = static_cast<std::size_t>(columns_);
  double* into = moments_.data() + (replicate * share_.blocks + block) * columns_ * kMoments;
  for (std::size_t column = 0; column < columns; ++column, into += kMoments) {
    Moments moments;
    double count = 0.0;
    for (std::size_t i = column; i < values.size(); i += columns, count += 1.0) {
      moments = merged(moments, count, {values[i], 0.0, values[i], values[i]}, 1.0);
    }
    into[0] = moments.mean;
    into[1] = moments.squares;
    into[2] = moments.minimum;
    into[3] = moments.maximum;
  }
}

ReplicatedData::Values ReplicatedData::of_numbers(Statistic statistic, std::int64_t column,
                                                  const std::vector<double>& moments) const {
  Values values;
  for (std::int64_t replicate = 0; replicate <= replicates_; ++replicate) {
    Moments all;
    double count = 0.0;
    for (std::int64_t block = 0; block < share_.blocks; ++block) {
      const double* of = moments.data() + ((replicate * share_.blocks + block) * columns_ + column) * kMoments;
      const auto examples = static_cast<double>(share_.end(block) - share_.begin(block));
      all = merged(all, count, {of[0], of[1], of[2], of[3]}, examples);
      count += examples;
    }
    values.push_back(statistic == Statistic::mean       ? all.mean
                     : statistic == Statistic::variance ? all.squares / count
                     : statistic == Statistic::minimum  ? all.minimum
                                                        : all.maximum);
  }
  return values;
}

ReplicatedData::Values ReplicatedData::of_labels(Statistic statistic, const std::vector<std::int64_t>& predicted,
                                                 Communicator& communicator) const {
  const auto rows = share_.rows();
  const std::int64_t width = statistic == Statistic::accuracy ? 1 : std::max<std::int64_t>(2, output_size(likelihood_));
  std::vector<double> counts(static_cast<std::size_t>((replicates_ + 1) * width));  // hits, or examples of each class
  for (std::size_t i = 0; i < labels_.size(); ++i) {
    const auto replicate = static_cast<std::int64_t>(i) / rows;
    const auto example = static_cast<std::size_t>(share_.first_row() + static_cast<std::int64_t>(i) % rows);
    const std::int64_t cell = statistic == Statistic::accuracy ? 0 : labels_[i];
    if (statistic == Statistic::accuracy && labels_[i] != predicted[example]) continue;
    counts[static_cast<std::size_t>(replicate * width + cell)] += 1.0;
  }
  counts = gather(communicator, counts, 0, static_cast<std::int64_t>(counts.size()));  // whole numbers: exact
  for (double& count : counts) count /= static_cast<double>(share_.examples);
  if (statistic == Statistic::accuracy) return counts;
  Values values;
  for (std::size_t begin = 0; begin < counts.size(); begin += static_cast<std::size_t>(width)) {
    values.push_back(entropy_nats(std::span(counts).subspan(begin, static_cast<std::size_t>(width))));
  }
  return values;
}

std::vector<PredictiveCheck> ReplicatedData::checks(const std::vector<Statistic>& statistics,
                                                    const std::vector<std::int64_t>& predicted,
                                                    Communicator& communicator) const {
  std::vector<PredictiveCheck> checks;
  const auto moments = gather(communicator, moments_, 0, static_cast<std::int64_t>(moments_.size()));
  for (const Statistic statistic : statistics) {
    ensure(is_of_classes(statistic) == is_classification(likelihood_), "a statistic that does not fit the likelihood");
    const auto add = [&](const Values& values) {
      checks.push_back(compare(statistic, std::span(values).first(values.size() - 1), values.back()));
    };
    if (is_of_classes(statistic)) {
      add(of_labels(statistic, predicted, communicator));
      continue;
    }
    for (std::int64_t column = 0; column < columns_; ++column) {
      add(of_numbers(statistic, column, moments));
      if (columns_ > 1) checks.back().column = column;
    }
  }
  return checks;
}

}  // namespace credence
