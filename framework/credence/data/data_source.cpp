#include "credence/data/data_source.h"

#include <functional>
#include <numeric>

#include "credence/base/errors.h"

namespace credence {

float Normalization::apply(double pixel, std::int64_t channel) const {
  if (empty()) return static_cast<float>(pixel / 255.0);
  const auto c = static_cast<std::size_t>(channel);
  return static_cast<float>((pixel / 255.0 - mean.at(c)) / deviation.at(c));
}

std::int64_t ExampleSpec::input_elements() const {
  return std::accumulate(input_shape.begin(), input_shape.end(), std::int64_t{1}, std::multiplies<>());
}

void DataSource::read(std::span<const std::int64_t> examples, Batch& batch) const {
  for (const std::int64_t example : examples)
    if (example < 0 || example >= size_)
      throw InternalError(fmt::format("example {} was asked of a dataset of {}", example, size_));
  ensure(spec_.classes == 0 || spec_.target_size == 0, "a dataset has either class labels or real-valued targets");

  const std::size_t count = examples.size();
  batch.size = static_cast<std::int64_t>(count);
  batch.inputs.resize(count * static_cast<std::size_t>(spec_.input_elements()));
  batch.labels.resize(spec_.classes > 0 ? count : 0);
  batch.targets.resize(count * static_cast<std::size_t>(spec_.target_size));
  fill(examples, batch);
}

}  // namespace credence
