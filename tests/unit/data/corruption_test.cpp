// Corruptions against SciPy, Pillow and matplotlib: references/data/corruptions.py.
#include "credence/data/corruption.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"

namespace credence {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Kind = Corruption::Kind;

const Normalization kNormalization{{0.4, 0.5, 0.6}, {0.2, 0.25, 0.3}};

/// Images [3, height, width] of whole pixels, all the same, normalised.
MemorySource images(const std::vector<int>& pixels, std::int64_t height, std::int64_t width, int count) {
  MemoryData data;
  data.spec.input_shape = {3, height, width};
  data.spec.classes = 2;
  data.spec.normalization = kNormalization;
  for (int copy = 0; copy < count; ++copy) {
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      data.inputs.push_back(kNormalization.apply(pixels[i], static_cast<std::int64_t>(i) / (height * width)));
    }
    data.labels.push_back(copy % 2);
  }
  return MemorySource(std::move(data));
}

/// Whole pixels of the examples of a source.
std::vector<int> pixels_of(const DataSource& source, const std::vector<std::int64_t>& examples) {
  Batch batch;
  source.read(examples, batch);
  const auto area = source.spec().input_shape[1] * source.spec().input_shape[2];
  std::vector<int> pixels;
  for (std::size_t i = 0; i < batch.inputs.size(); ++i) {
    const auto c = i / static_cast<std::size_t>(area) % 3;
    const double pixel =
        255.0 * (kNormalization.mean[c] + kNormalization.deviation[c] * static_cast<double>(batch.inputs[i]));
    EXPECT_NEAR(pixel, std::round(pixel), 1e-3);  // of 255, in float32
    pixels.push_back(static_cast<int>(std::lround(pixel)));
  }
  return pixels;
}

struct Reference {
  nlohmann::json json = [] {
    std::ifstream file(CREDENCE_REFERENCES "/data/corruptions.json");
    return nlohmann::json::parse(file);
  }();
  std::vector<int> image = json["image"].get<std::vector<int>>();
  std::int64_t height = json["height"], width = json["width"];
};

/// Largest and mean difference of pixels.
std::pair<int, double> difference(const std::vector<int>& a, const std::vector<int>& b) {
  int largest = 0;
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i] - b[i]));
    sum += std::abs(a[i] - b[i]);
  }
  return {largest, sum / static_cast<double>(a.size())};
}

TEST(Corruption, AgreesWithOthers) {
  const Reference reference;
  const MemorySource source = images(reference.image, reference.height, reference.width, 1);
  for (const auto& [name, kind] : {std::pair("blur", Kind::blur), std::pair("contrast", Kind::contrast),
                                   std::pair("brightness", Kind::brightness), std::pair("pixelate", Kind::pixelate)}) {
    const auto expected = reference.json["corrupted"][name].get<std::vector<int>>();
    const auto actual = pixels_of(*corrupted(source, {kind, 3}), {0});
    ASSERT_EQ(actual.size(), expected.size());
    // Rounding at a half may differ; Pillow rounds twice more.
    EXPECT_LE(difference(actual, expected).first, kind == Kind::pixelate ? 2 : 1) << name;
    EXPECT_GT(difference(actual, reference.image).second, 1.0) << name;
  }
}

TEST(Corruption, NoiseHasItsDeviationAndDependsOnTheExampleAlone) {
  const std::vector<int> grey(3 * 32 * 32, 128);
  const MemorySource source = images(grey, 32, 32, 3);
  const auto noisy = corrupted(source, {Kind::noise, 3});
  const std::vector<int> pixels = pixels_of(*noisy, {1});
  double sum = 0.0, squares = 0.0;
  for (const int pixel : pixels) {
    sum += pixel - 128;
    squares += (pixel - 128) * (pixel - 128);
  }
  const double n = 3 * 32 * 32, deviation = 0.08 * 255;
  EXPECT_LT(std::abs(sum / n), 5 * deviation / std::sqrt(n));
  // Rounding adds a variance of 1/12.
  EXPECT_NEAR(squares / n, deviation * deviation + 1.0 / 12, 5 * deviation * deviation * std::sqrt(2 / n));
  EXPECT_NE(pixels, pixels_of(*noisy, {2}));
  const std::vector<int> together = pixels_of(*noisy, {2, 1});
  EXPECT_TRUE(std::equal(pixels.begin(), pixels.end(), together.begin() + 3 * 32 * 32));
}

TEST(Corruption, ThreadsChangeNothing) {
  std::vector<int> pixels(3 * 20 * 24);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<int>(i * 37 % 256);
  const MemorySource source = images(pixels, 20, 24, 7);
  const std::vector<std::int64_t> examples = {6, 0, 3, 3, 1};
  for (const Corruption& corruption : parse_corruptions("noise:2,jpeg:4,blur:3")) {
    const std::vector<int> alone = pixels_of(*corrupted(source, corruption), examples);
    for (const int threads : {2, 3, 16}) {
      EXPECT_EQ(pixels_of(*corrupted(source, corruption, threads), examples), alone)
          << name_of(corruption.kind) << " on " << threads;
    }
  }
}

TEST(Corruption, GrowsWithSeverity) {
  const Reference reference;
  const MemorySource source = images(reference.image, reference.height, reference.width, 1);
  for (const Corruption& corruption : parse_corruptions("all")) {
    if (corruption.severity == kSeverities) continue;
    const auto less = difference(pixels_of(*corrupted(source, corruption), {0}), reference.image).second;
    const Corruption next{corruption.kind, corruption.severity + 1};
    const auto more = difference(pixels_of(*corrupted(source, next), {0}), reference.image).second;
    EXPECT_GT(less, 0.0) << name_of(corruption.kind) << corruption.severity;
    EXPECT_GT(more, less) << name_of(corruption.kind) << corruption.severity;
  }
}

TEST(Corruption, LargeImagesAreCorruptedMore) {
  std::vector<int> pixels(3 * 70 * 70);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<int>(i * 37 % 256);
  const MemorySource source = images(pixels, 70, 70, 1);
  const double contrast = difference(pixels_of(*corrupted(source, {Kind::contrast, 1}), {0}), pixels).second;
  EXPECT_NEAR(contrast, 0.6 * 64, 2.0);  // a uniform pixel is 64 from its mean, on average; factor 0.4, not 0.75
}

TEST(Corruption, OtherThanPixelsIsKept) {
  const Reference reference;
  const MemorySource source = images(reference.image, reference.height, reference.width, 4);
  const auto blurred = corrupted(source, {Kind::blur, 1});
  EXPECT_EQ(blurred->size(), 4);
  EXPECT_EQ(blurred->spec().input_shape, source.spec().input_shape);
  EXPECT_NE(blurred->digest(), source.digest());
  Batch batch;
  blurred->read(std::vector<std::int64_t>{3, 0}, batch);
  EXPECT_THAT(batch.labels, ElementsAre(1, 0));
}

TEST(Corruption, SpecsNameKindsAndSeverities) {
  EXPECT_EQ(parse_corruptions("all").size(), 30U);
  EXPECT_THAT(parse_corruptions("blur:3"), ElementsAre(Corruption{Kind::blur, 3}));
  EXPECT_EQ(parse_corruptions("jpeg").size(), 5U);
  EXPECT_EQ(parse_corruptions("jpeg,jpeg:2,noise:1").size(), 6U);  // none twice
  const auto refused = [](const char* spec, const char* text) {
    EXPECT_THAT([&] { parse_corruptions(spec); }, ThrowsMessage<UserError>(HasSubstr(text))) << spec;
  };
  refused("blurr", "blur");
  refused("blur:6", "severities 1 to 5");
  refused("blur:0", "severities 1 to 5");
  refused("all:2", "severities");
  refused("", "name of a corruption");
  MemoryData table;
  table.spec.input_shape = {2};
  table.spec.classes = 2;
  table.inputs = {1.0F, 2.0F};
  table.labels = {1};
  const MemorySource rows(std::move(table));
  EXPECT_THAT([&] { corrupted(rows, {Kind::blur, 1}); }, ThrowsMessage<UserError>(HasSubstr("images")));
}

}  // namespace
}  // namespace credence
