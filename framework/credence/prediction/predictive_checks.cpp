#include "credence/prediction/predictive_checks.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "credence/base/errors.h"
#include "credence/likelihoods/observation.h"

namespace credence {
namespace {

/// Weight draws use step 0 of this purpose, what else a module draws step 1.
kernels::NoiseStream stream_of(std::uint64_t seed, int replicate) {
  return {.seed = seed,
          .purpose = kernels::Purpose::prediction,
          .step = 2,
          .sample = static_cast<std::uint32_t>(replicate)};
}

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

void ReplicatedData::add(const BlockOutputs& outputs, int replicate) {
  if (is_classification(likelihood_)) {
    add_labels(outputs, replicate);
  } else {
    add_numbers(outputs, replicate);
  }
}

void ReplicatedData::add_labels(const BlockOutputs& block, int replicate) {
  const kernels::NoiseStream stream = stream_of(seed_, replicate);
  const torch::Tensor probabilities = class_probabilities(likelihood_, block.outputs).cpu().contiguous();
  const std::int64_t classes = probabilities.size(1);
  const double* row = probabilities.data_ptr<double>();
  std::int32_t* into = labels_.data() + replicate * share_.rows() + block.row;
  for (std::int64_t i = 0; i < block.batch.size; ++i, row += classes) {
    const double u = uniform(stream, share_.first_row() + block.row + i);
    double sum = row[0];
    std::int32_t label = 0;
    while (sum <= u && label + 1 < classes) sum += row[++label];
    into[i] = label;
  }
  if (replicate > 0) return;
  std::int32_t* observed = labels_.data() + replicates_ * share_.rows() + block.row;
  for (std::int64_t i = 0; i < block.batch.size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    observed[i] = static_cast<std::int32_t>(block.batch.labels.empty() ? std::lround(block.batch.targets[at])
                                                                       : block.batch.labels[at]);
  }
}

void ReplicatedData::add_numbers(const BlockOutputs& block, int replicate) {
  note_numbers(replicate, block.block, replicated_numbers(block.outputs, replicate, share_.begin(block.block)));
  if (replicate > 0) return;
  note_numbers(replicates_, block.block, {block.batch.targets.begin(), block.batch.targets.end()});
}

std::vector<double> ReplicatedData::replicated_numbers(const torch::Tensor& outputs, int replicate,
                                                       std::int64_t example) const {
  const kernels::NoiseStream stream = stream_of(seed_, replicate);
  std::vector<double> values(static_cast<std::size_t>(outputs.size(0) * columns_));
  std::int64_t element = example * columns_;
  if (!is_regression(likelihood_)) {  // several Bernoulli columns
    const torch::Tensor probabilities = torch::sigmoid(outputs.to(torch::kFloat64)).cpu().contiguous();
    const double* p = probabilities.data_ptr<double>();
    for (double& value : values) value = uniform(stream, element++) < *p++ ? 1.0 : 0.0;
    return values;
  }
  const ObservationModel model(likelihood_);
  const auto tensors = model.of(outputs);
  const torch::Tensor location = tensors.location.cpu().contiguous();
  const torch::Tensor scale = tensors.scale.cpu().contiguous();
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = model.sample({location.data_ptr<double>()[i], scale.data_ptr<double>()[i]}, stream, element++);
  }
  return values;
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
