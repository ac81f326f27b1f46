#include "credence/data/data_source.h"

#include <array>
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

void normalize(const ExampleSpec& spec, const Batch& batch, float* to) {
  const std::int64_t channels = spec.input_shape.at(0);
  const std::int64_t plane = spec.input_elements() / channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    std::array<float, 256> values;
    for (std::size_t pixel = 0; pixel < values.size(); ++pixel)
      values[pixel] = spec.normalization.apply(static_cast<double>(pixel), c);
    for (std::int64_t row = 0; row < batch.size; ++row) {
      const std::uint8_t* from = batch.pixels.data() + row * plane * channels + c;
      float* const image = to + (row * channels + c) * plane;
      for (std::int64_t i = 0; i < plane; ++i, from += channels) image[i] = values[*from];
    }
  }
}

void normalize(const ExampleSpec& spec, Batch& batch) {
  if (batch.pixels.empty()) return;
  batch.inputs.resize(batch.pixels.size());
  normalize(spec, batch, batch.inputs.data());
  batch.pixels.clear();
}

void DataSource::read(std::span<const std::int64_t> examples, Batch& batch) const {
  for (const std::int64_t example : examples)
    if (example < 0 || example >= size_)
      throw InternalError(fmt::format("example {} was asked of a dataset of {}", example, size_));
  ensure(spec_.classes == 0 || spec_.target_size == 0, "a dataset has either class labels or real-valued targets");

  const std::size_t count = examples.size();
  batch.size = static_cast<std::int64_t>(count);
  const auto elements = count * static_cast<std::size_t>(spec_.input_elements());
  batch.inputs.resize(as_images() == nullptr ? elements : 0);
  batch.pixels.resize(as_images() == nullptr ? 0 : elements);
  batch.labels.resize(spec_.classes > 0 ? count : 0);
  batch.targets.resize(count * static_cast<std::size_t>(spec_.target_size));
  fill(examples, batch);
}

}  // namespace credence
