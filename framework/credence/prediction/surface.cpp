#include "credence/prediction/surface.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"

namespace credence {
namespace {

constexpr double kMargin = 0.2;  // of the range, on every side
constexpr std::int64_t kReadAtOnce = 4096;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
};

std::array<Range, 2> ranges_of(const DataSource& source) {
  std::array<Range, 2> ranges;
  std::vector<std::int64_t> indices;
  Batch batch;
  for (std::int64_t begin = 0; begin < source.size(); begin += kReadAtOnce) {
    indices.resize(static_cast<std::size_t>(std::min(kReadAtOnce, source.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    source.read(indices, batch);
    for (std::size_t i = 0; i < batch.inputs.size(); ++i) {
      Range& range = ranges[i % 2];
      range.low = std::min(range.low, static_cast<double>(batch.inputs[i]));
      range.high = std::max(range.high, static_cast<double>(batch.inputs[i]));
    }
  }
  return ranges;
}

/// Rounded to the float32 that the network sees.
std::vector<double> axis(const Range& range, std::int64_t side) {
  const double width = range.high > range.low ? range.high - range.low : 1.0;
  const double step = (1.0 + 2.0 * kMargin) * width / static_cast<double>(side - 1);
  std::vector<double> values;
  for (std::int64_t i = 0; i < side; ++i) {
    values.push_back(static_cast<float>(range.low - kMargin * width + static_cast<double>(i) * step));
  }
  return values;
}

}  // namespace

InputGrid make_input_grid(const DataSource& source, std::int64_t side) {
  ensure(source.spec().input_elements() == 2 && source.size() > 0 && side >= 2, "a grid needs two-dimensional inputs");
  const std::array<Range, 2> ranges = ranges_of(source);
  InputGrid grid{axis(ranges[0], side), axis(ranges[1], side), nullptr};
  MemoryData data;
  data.spec.input_shape = source.spec().input_shape;
  data.spec.classes = 2;
  for (const double y : grid.y) {
    for (const double x : grid.x) {
      data.inputs.push_back(static_cast<float>(x));
      data.inputs.push_back(static_cast<float>(y));
    }
  }
  data.labels.resize(data.inputs.size() / 2);
  grid.points = std::make_unique<MemorySource>(std::move(data));
  return grid;
}

}  // namespace credence
