#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "credence/data/data_source.h"

namespace credence {

/// Examples as plain arrays, row-major: N is what `inputs` holds. At most one of labels and targets, as the spec says.
struct MemoryData {
  ExampleSpec spec;
  std::vector<float> inputs;         // [N, input_shape...]
  std::vector<std::int64_t> labels;  // [N], in [0, classes)
  std::vector<float> targets;        // [N, target_size]
};

/// A dataset of arrays that are already in memory. UserError where the arrays do not fit the spec, DataError for a
/// label out of range or a value that is not finite.
class MemorySource final : public DataSource {
 public:
  explicit MemorySource(MemoryData data);

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override;

  std::vector<float> inputs_;
  std::vector<std::int64_t> labels_;
  std::vector<float> targets_;
};

}  // namespace credence
