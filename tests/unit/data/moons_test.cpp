#include "credence/data/moons.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "unit/data/files.h"

namespace credence {
namespace {

using test::whole;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// Both splits of some moons: coordinates of all points and their labels.
struct Points {
  std::vector<double> x, y;
  std::vector<std::int64_t> labels;
};
Points both_splits(const Moons& moons) {
  Points points;
  for (const Split split : {Split::train, Split::test}) {
    const Batch batch = whole(*make_moons(moons, split));
    for (std::size_t i = 0; i < batch.labels.size(); ++i) {
      points.x.push_back(batch.inputs[2 * i]);
      points.y.push_back(batch.inputs[2 * i + 1]);
      points.labels.push_back(batch.labels[i]);
    }
  }
  return points;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

TEST(Moons, AreStandardisedAndHalved) {
  const auto train = make_moons({}, Split::train);
  const auto test = make_moons({}, Split::test);
  EXPECT_EQ(train->size(), 500);
  EXPECT_EQ(test->size(), 500);
  EXPECT_THAT(train->spec().input_shape, ElementsAre(2));
  EXPECT_EQ(train->spec().classes, 2);
  EXPECT_EQ(train->spec().target_size, 0);
  const Points points = both_splits({});
  EXPECT_EQ(std::count(points.labels.begin(), points.labels.end(), 1), 500);
  for (const auto* values : {&points.x, &points.y}) {
    // Each of the 1,000 values is rounded to float: relative 2^-24, values below 4.
    const double rounding = 4 * 0x1p-24;
    EXPECT_NEAR(mean_of(*values), 0, rounding);
    double squares = 0;
    for (const double value : *values) squares += value * value / 1000;
    EXPECT_NEAR(squares, 1, 2 * 4 * rounding);
  }
}

TEST(Moons, AreAFunctionOfTheSeed) {
  const auto train = make_moons({}, Split::train);
  EXPECT_EQ(make_moons({}, Split::train)->digest(), train->digest());
  EXPECT_NE(make_moons({}, Split::test)->digest(), train->digest());
  EXPECT_NE(make_moons({.seed = 1}, Split::train)->digest(), train->digest());
}

TEST(Moons, LieOnTwoHalfCirclesBlurredByTheNoise) {
  // Spread of the formula itself, over t evenly spaced: what standardisation divided by, noise included.
  double upper_x = 0, upper_y = 0, xx = 0, yy = 0;
  for (int i = 0; i < 500; ++i) {
    const double t = std::numbers::pi * i / 499;
    upper_x += std::cos(t) / 500;
    upper_y += std::sin(t) / 500;
  }
  const double center_x = (upper_x + 1 - upper_x) / 2;
  const double center_y = (upper_y + 0.5 - upper_y) / 2;
  for (int i = 0; i < 500; ++i) {
    const double t = std::numbers::pi * i / 499;
    xx += (std::pow(std::cos(t) - center_x, 2) + std::pow(1 - std::cos(t) - center_x, 2)) / 1000;
    yy += (std::pow(std::sin(t) - center_y, 2) + std::pow(0.5 - std::sin(t) - center_y, 2)) / 1000;
  }
  const double scale_x = std::sqrt(xx + 0.04);
  const double scale_y = std::sqrt(yy + 0.04);

  double sum = 0, squares = 0;
  const Points points = both_splits({.seed = 7});
  for (std::size_t i = 0; i < points.x.size(); ++i) {
    const double x = center_x + scale_x * points.x[i];
    const double y = center_y + scale_y * points.y[i];
    const bool lower = points.labels[i] == 1;
    const double radius = std::hypot(lower ? 1 - x : x, lower ? 0.5 - y : y);
    sum += radius - 1;
    squares += (radius - 1) * (radius - 1);
  }
  // To second order in the noise s: mean of radius - 1 is s^2 / 2, its mean square s^2. The realised centre and scale
  // differ from their expectations by about s / sqrt(1000) = 0.0063 each: five standard errors of mean and variance,
  // and for the mean the same again for the centre and the two scales.
  const double noise = 0.2, error = noise / std::sqrt(1000.0);
  EXPECT_NEAR(sum / 1000, noise * noise / 2, 10 * error);
  EXPECT_NEAR(squares / 1000, noise * noise, 5 * std::sqrt(2.0 / 1000) * noise * noise + 10 * error * error);
}

TEST(Moons, NoiseIsNormalAndIndependent) {
  // So much noise that nothing of the moons is left: coordinates uncorrelated, fourth moment 3, five standard errors.
  const Points points = both_splits({.seed = 4, .points = 4000, .noise = 1e5});
  double product = 0, fourth_x = 0, fourth_y = 0;
  for (std::size_t i = 0; i < points.x.size(); ++i) {
    product += points.x[i] * points.y[i] / 4000;
    fourth_x += std::pow(points.x[i], 4) / 4000;
    fourth_y += std::pow(points.y[i], 4) / 4000;
  }
  EXPECT_NEAR(product, 0, 5 / std::sqrt(4000.0));
  EXPECT_NEAR(fourth_x, 3, 5 * std::sqrt(96 / 4000.0));
  EXPECT_NEAR(fourth_y, 3, 5 * std::sqrt(96 / 4000.0));
}

TEST(Moons, WithoutNoiseAreTheFormula) {
  // Three points of each moon, t = 0, pi/2 and pi, by hand; x has mean 1/2.
  const std::vector<std::pair<double, double>> formula = {{1, 0}, {0, 1}, {-1, 0}, {0, 0.5}, {1, -0.5}, {2, 0.5}};
  double mean_y = 0, variance_x = 0, variance_y = 0;
  for (const auto& [x, y] : formula) mean_y += y / 6;
  for (const auto& [x, y] : formula) {
    variance_x += (x - 0.5) * (x - 0.5) / 6;
    variance_y += (y - mean_y) * (y - mean_y) / 6;
  }
  const Points points = both_splits({.seed = 0, .points = 6, .noise = 0});
  std::vector<std::pair<float, float>> expected, found;
  for (const auto& [x, y] : formula)
    expected.emplace_back((x - 0.5) / std::sqrt(variance_x), (y - mean_y) / std::sqrt(variance_y));
  ASSERT_EQ(points.x.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    int matches = 0;
    for (std::size_t j = 0; j < 6; ++j)
      matches += std::abs(points.x[i] - expected[j].first) < 1e-6 &&
                 std::abs(points.y[i] - expected[j].second) < 1e-6 && points.labels[i] == (j < 3 ? 0 : 1);
    EXPECT_EQ(matches, 1) << i;
  }
}

TEST(Moons, RefuseSeedsTooLarge) {
  EXPECT_NO_THROW(make_moons({.seed = (std::uint64_t{1} << 56) - 1}, Split::train));
  EXPECT_THAT([] { make_moons({.seed = std::uint64_t{1} << 56}, Split::train); },
              ThrowsMessage<UserError>(HasSubstr("below 2^56")));
  EXPECT_THROW(make_moons({.seed = 0, .points = 3}, Split::train), UserError);
  EXPECT_THROW(make_moons({.seed = 0, .points = 10, .noise = -1}, Split::train), UserError);
}

}  // namespace
}  // namespace credence
