#include "credence/data/moons.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "credence/data/random_words.h"

namespace credence {
namespace {

struct Points {
  std::vector<double> coordinates;  // [N, 2]
  std::vector<std::int64_t> labels;
};

Points noisy_moons(const Moons& moons) {
  const kernels::NoiseStream stream{.seed = moons.seed, .purpose = kernels::Purpose::data};
  const std::int64_t upper = moons.points / 2;
  Points points;
  for (std::int64_t i = 0; i < moons.points; ++i) {
    const bool lower = i >= upper;
    const std::int64_t place = lower ? i - upper : i;
    const std::int64_t last = (lower ? moons.points - upper : upper) - 1;
    const double t = std::numbers::pi * static_cast<double>(place) / static_cast<double>(last);
    const double x = lower ? 1.0 - std::cos(t) : std::cos(t);
    const double y = lower ? 0.5 - std::sin(t) : std::sin(t);
    points.coordinates.push_back(x + moons.noise * kernels::standard_normal(stream, 2 * i));
    points.coordinates.push_back(y + moons.noise * kernels::standard_normal(stream, 2 * i + 1));
    points.labels.push_back(lower ? 1 : 0);
  }
  return points;
}

void standardise(std::vector<double>& values, std::size_t column) {
  double sum = 0.0;
  double squares = 0.0;
  const double count = static_cast<double>(values.size()) / 2.0;
  for (std::size_t i = column; i < values.size(); i += 2) sum += values[i];
  const double mean = sum / count;
  for (std::size_t i = column; i < values.size(); i += 2) squares += (values[i] - mean) * (values[i] - mean);
  const double deviation = std::sqrt(squares / count);
  for (std::size_t i = column; i < values.size(); i += 2) values[i] = (values[i] - mean) / deviation;
}

}  // namespace

std::unique_ptr<DataSource> make_moons(const Moons& moons, Split split) {
  require(moons.points >= 4, "moons need at least four points, got {}", moons.points);
  require(std::isfinite(moons.noise) && moons.noise >= 0, "the noise of moons must be zero or more, got {}",
          moons.noise);
  require(moons.seed < std::uint64_t{1} << 56, "the seed {} of moons is too large: it must be below 2^56", moons.seed);

  Points points = noisy_moons(moons);
  standardise(points.coordinates, 0);
  standardise(points.coordinates, 1);
  std::vector<std::size_t> order(points.labels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Stream 1: the noise above is stream 0 of the same key.
  RandomWords random(moons.seed, kernels::Purpose::data, 1);
  shuffle(std::span<std::size_t>(order), random);

  MemoryData data;
  data.spec = {
      .input_shape = {2}, .classes = 2, .target_size = 0, .class_names = {"upper", "lower"}, .normalization = {}};
  const std::size_t train = order.size() - order.size() / 2;
  const auto chosen = split == Split::train ? std::span(order).first(train) : std::span(order).subspan(train);
  for (const std::size_t i : chosen) {
    data.inputs.push_back(static_cast<float>(points.coordinates[2 * i]));
    data.inputs.push_back(static_cast<float>(points.coordinates[2 * i + 1]));
    data.labels.push_back(points.labels[i]);
  }
  return std::make_unique<MemorySource>(std::move(data));
}

}  // namespace credence
