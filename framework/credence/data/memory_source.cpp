#include "credence/data/memory_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "credence/base/errors.h"
#include "credence/data/digest.h"

namespace credence {
namespace {

void check_spec(const ExampleSpec& spec) {
  require(!spec.input_shape.empty() && std::ranges::all_of(spec.input_shape, [](std::int64_t n) { return n > 0; }),
          "the shape of an example must have at least one dimension and only positive ones");
  require(spec.classes >= 0 && spec.target_size >= 0 && (spec.classes == 0 || spec.target_size == 0),
          "a dataset has either class labels or real-valued targets, got {} classes and {} targets", spec.classes,
          spec.target_size);
  require(spec.class_names.empty() || static_cast<std::int64_t>(spec.class_names.size()) == spec.classes,
          "{} class names were given for {} classes", spec.class_names.size(), spec.classes);
  const Normalization& normalization = spec.normalization;
  const std::size_t channels = normalization.empty() ? 0 : static_cast<std::size_t>(spec.input_shape.front());
  require(normalization.mean.size() == channels && normalization.deviation.size() == channels,
          "a normalisation needs one mean and one deviation per channel");
}

void check_finite(const std::vector<float>& values, std::int64_t per_example, const char* what) {
  const auto found = std::ranges::find_if_not(values, [](float value) { return std::isfinite(value); });
  if (found != values.end())
    throw DataError(fmt::format("{} of example {} is {}, which is not a finite number", what,
                                (found - values.begin()) / per_example, *found));
}

}  // namespace

MemorySource::MemorySource(MemoryData data)
    : inputs_(std::move(data.inputs)), labels_(std::move(data.labels)), targets_(std::move(data.targets)) {
  spec_ = std::move(data.spec);
  check_spec(spec_);
  const std::int64_t elements = spec_.input_elements();
  const auto values = static_cast<std::int64_t>(inputs_.size());
  require(values > 0 && values % elements == 0, "{} input values are no whole number of examples of {}", values,
          elements);
  size_ = values / elements;
  require(static_cast<std::int64_t>(labels_.size()) == (spec_.classes > 0 ? size_ : 0),
          "{} labels were given for {} examples of {} classes", labels_.size(), size_, spec_.classes);
  require(static_cast<std::int64_t>(targets_.size()) == size_ * spec_.target_size,
          "{} target values were given for {} examples of {}", targets_.size(), size_, spec_.target_size);

  check_finite(inputs_, elements, "an input");
  check_finite(targets_, spec_.target_size, "a target");
  const auto wrong = std::ranges::find_if(labels_, [&](std::int64_t y) { return y < 0 || y >= spec_.classes; });
  if (wrong != labels_.end())
    throw DataError(fmt::format("the label of example {} is {}, outside 0 to {}", wrong - labels_.begin(), *wrong,
                                spec_.classes - 1));

  ContentDigest digest(spec_, size_);
  digest.add(std::span<const float>(inputs_));
  digest.add(std::span<const std::int64_t>(labels_));
  digest.add(std::span<const float>(targets_));
  digest_ = digest.hexadecimal();
}

void MemorySource::fill(std::span<const std::int64_t> examples, Batch& batch) const {
  const std::int64_t elements = spec_.input_elements();
  auto input = batch.inputs.begin();
  auto target = batch.targets.begin();
  for (std::size_t row = 0; row < examples.size(); ++row) {
    const std::int64_t example = examples[row];
    input = std::copy_n(inputs_.begin() + example * elements, elements, input);
    target = std::copy_n(targets_.begin() + example * spec_.target_size, spec_.target_size, target);
    if (spec_.classes > 0) batch.labels[row] = labels_[static_cast<std::size_t>(example)];
  }
}

}  // namespace credence
