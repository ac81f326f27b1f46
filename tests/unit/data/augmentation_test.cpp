#include "credence/data/augmentation.h"

#include <gmock/gmock.h>

#include <map>
#include <tuple>

#include "credence/base/errors.h"
#include "unit/data/statistics.h"

namespace credence {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::int64_t kChannels = 2, kHeight = 5, kWidth = 7;

ExampleSpec image_spec() {
  return {.input_shape = {kChannels, kHeight, kWidth},
          .classes = 10,
          .target_size = 0,
          .class_names = {},
          .normalization = {{0.5, 0.25}, {0.25, 0.125}}};  // black is -2 in both channels
}
constexpr float kBlack = -2;

/// Every pixel has a value of its own, none of them black's.
std::vector<float> image() {
  std::vector<float> pixels;
  for (int i = 0; i < kChannels * kHeight * kWidth; ++i) pixels.push_back(static_cast<float>(i + 1));
  return pixels;
}

Batch batch_of(std::size_t images) {
  Batch batch;
  batch.size = static_cast<std::int64_t>(images);
  for (std::size_t i = 0; i < images; ++i) {
    const std::vector<float> pixels = image();
    batch.inputs.insert(batch.inputs.end(), pixels.begin(), pixels.end());
  }
  return batch;
}

/// The definition, pixel by pixel: pad, cut at (top, left), then mirror.
std::vector<float> by_definition(int padding, std::int64_t top, std::int64_t left, bool flip) {
  const std::vector<float> from = image();
  std::vector<float> to;
  for (std::int64_t c = 0; c < kChannels; ++c)
    for (std::int64_t y = 0; y < kHeight; ++y)
      for (std::int64_t x = 0; x < kWidth; ++x) {
        const std::int64_t sy = y + top - padding;
        const std::int64_t sx = (flip ? kWidth - 1 - x : x) + left - padding;
        const bool inside = sy >= 0 && sy < kHeight && sx >= 0 && sx < kWidth;
        to.push_back(inside ? from[static_cast<std::size_t>((c * kHeight + sy) * kWidth + sx)] : kBlack);
      }
  return to;
}

using Change = std::tuple<std::int64_t, std::int64_t, bool>;

/// How often each change was met among so many examples; fails where an image is none of the possible ones.
std::map<Change, std::int64_t> changes(const Augmentation& augmentation, std::int64_t examples) {
  std::map<std::vector<float>, Change> possible;
  const int padding = augmentation.crop_padding;
  for (std::int64_t top = 0; top <= 2 * padding; ++top)
    for (std::int64_t left = 0; left <= 2 * padding; ++left)
      for (const bool flip : {false, true})
        if (augmentation.flip || !flip) possible[by_definition(padding, top, left, flip)] = {top, left, flip};

  SamplingPlan::Selection selection;
  for (std::int64_t i = 0; i < examples; ++i) {
    selection.examples.push_back(i);
    selection.epochs.push_back(i % 5);
  }
  Batch batch = batch_of(static_cast<std::size_t>(examples));
  augment(augmentation, 11, image_spec(), selection, batch);
  std::map<Change, std::int64_t> seen;
  for (const auto& [pixels, change] : possible) seen[change] = 0;
  const auto elements = kChannels * kHeight * kWidth;
  for (std::int64_t i = 0; i < examples; ++i) {
    const auto begin = batch.inputs.begin() + i * elements;
    const auto found = possible.find(std::vector<float>(begin, begin + elements));
    if (found == possible.end()) {
      ADD_FAILURE() << "example " << i << " is no crop or flip of the image";
      break;
    }
    ++seen[found->second];
  }
  return seen;
}

TEST(Augment, EveryCropAndFlipIsAsLikely) {
  for (const auto& [augmentation, cells] :
       std::map<std::string, std::size_t>{{"crop:2,flip", 50}, {"crop:4", 81}, {"flip", 2}, {"crop:1", 9}}) {
    const auto seen = changes(Augmentation::parse(augmentation), 10000);
    ASSERT_EQ(seen.size(), cells);
    std::vector<std::int64_t> counts;
    for (const auto& [change, count] : seen) counts.push_back(count);
    EXPECT_LT(test::chi_square(counts), test::chi_square_limit(cells)) << augmentation;
  }
}

TEST(Augment, IsAFunctionOfSeedEpochAndExample) {
  const Augmentation augmentation{.crop_padding = 4, .flip = true};
  const auto augmented = [&](std::uint64_t seed, std::int64_t epoch, const std::vector<std::int64_t>& examples) {
    Batch batch = batch_of(examples.size());
    augment(augmentation, seed, image_spec(), {examples, std::vector<std::int64_t>(examples.size(), epoch)}, batch);
    return batch.inputs;
  };
  std::vector<std::int64_t> examples;
  for (std::int64_t i = 0; i < 50; ++i) examples.push_back(i * 37);
  const std::vector<float> all = augmented(1, 2, examples);
  EXPECT_EQ(augmented(1, 2, examples), all);
  EXPECT_NE(augmented(2, 2, examples), all);
  EXPECT_NE(augmented(1, 3, examples), all);
  EXPECT_NE(augmented(1, 2 + (std::int64_t{1} << 32), examples), all);
  const std::size_t elements = image().size();
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const std::vector<float> alone = augmented(1, 2, {examples[i]});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + static_cast<std::ptrdiff_t>(i * elements)));
  }
}

TEST(Augment, BlackWithoutNormalisationIsZero) {
  ExampleSpec spec = image_spec();
  spec.normalization = {};
  SamplingPlan::Selection selection;
  for (std::int64_t i = 0; i < 20; ++i) selection.examples.push_back(i), selection.epochs.push_back(0);
  Batch batch = batch_of(20);
  augment({.crop_padding = 2, .flip = false}, 0, spec, selection, batch);
  EXPECT_GT(std::count(batch.inputs.begin(), batch.inputs.end(), 0.0F), 0);
  EXPECT_EQ(std::count(batch.inputs.begin(), batch.inputs.end(), kBlack), 0);
}

TEST(Augmentation, Specs) {
  EXPECT_FALSE(Augmentation::parse("none").enabled());
  EXPECT_EQ(Augmentation::parse("crop:4").crop_padding, 4);
  EXPECT_FALSE(Augmentation::parse("crop:4").flip);
  EXPECT_TRUE(Augmentation::parse("flip").flip);
  for (const char* const both : {"crop:12,flip", "flip,crop:12"}) {
    EXPECT_EQ(Augmentation::parse(both).crop_padding, 12);
    EXPECT_TRUE(Augmentation::parse(both).flip);
  }
  for (const char* const wrong : {"", "crop", "crop:", "crop:0", "crop:-1", "crop:x", "crop:4x", "crop:4,", ",flip",
                                  "Flip", "flip,flip", "crop:4,crop:4", "none,flip", "crop:99999999999", "rotate"})
    EXPECT_THAT([&] { Augmentation::parse(wrong); }, ThrowsMessage<UserError>(HasSubstr("augmentation")));
}

TEST(Augmentation, FitsImagesOnly) {
  const Augmentation crop{.crop_padding = 5, .flip = false};
  EXPECT_THAT([&] { check_augmentation(crop, image_spec()); },
              ThrowsMessage<UserError>(HasSubstr("larger images than 5 x 7")));
  ExampleSpec table;
  table.input_shape = {2};
  EXPECT_THAT([&] { check_augmentation(crop, table); },
              ThrowsMessage<UserError>(HasSubstr("an example of this data is [2]")));
  EXPECT_NO_THROW(check_augmentation({}, table));
  EXPECT_NO_THROW(check_augmentation({.crop_padding = 4, .flip = true}, image_spec()));
}

}  // namespace
}  // namespace credence
