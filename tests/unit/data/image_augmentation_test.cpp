#include "credence/data/image_augmentation.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <memory_resource>
#include <mutex>
#include <set>
#include <span>

#include "credence/base/errors.h"
#include "credence/data/image_source.h"
#include "credence/data/loader.h"
#include "credence/data/open.h"
#include "unit/data/files.h"
#include "unit/data/images.h"
#include "unit/data/statistics.h"

namespace credence {
namespace {

#include "unit/data/references/images.inc"

using test::Bytes;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Jitter, ChangesColoursAsTorchvisionDoes) {
  const auto changed = [](const JitterDraw& draw) {
    Bytes pixels = test::pattern(6, 9);
    jitter(draw, 6 * 9, pixels.data());
    return pixels;
  };
  const auto expect_near = [](const Bytes& got, const Bytes& expected, const char* what) {
    ASSERT_EQ(got.size(), expected.size());
    // Both cut to whole numbers what they compute in float32, each in its own order: one level apart at most.
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1) << what << " " << i;
  };
  expect_near(changed({.brightness = 1.37}), jitter_brightness, "brightness");
  expect_near(changed({.contrast = 0.64}), jitter_contrast, "contrast");
  expect_near(changed({.saturation = 1.8}), jitter_saturation, "saturation");
  expect_near(changed({.hue = -0.21}), jitter_hue, "hue");
  EXPECT_EQ(changed({}), test::pattern(6, 9));
}

TEST(Jitter, FactorsAndOrderAreUniform) {
  const Augmentation::Jitter law{.brightness = 0.4, .contrast = 1.5, .saturation = 0.2, .hue = 0.1};
  std::vector<std::int64_t> brightness(10);
  std::vector<std::int64_t> hue(10);
  std::map<std::vector<int>, std::int64_t> orders;
  std::vector<std::int64_t> last_when_bright(4);  // the order tells nothing of the factors
  std::vector<std::int64_t> last_when_blue(4);
  constexpr int kDraws = 24000;
  for (int i = 0; i < kDraws; ++i) {
    const JitterDraw draw = draw_jitter(law, ExampleNoise(7, 0, i));
    ASSERT_GE(draw.contrast, 0.0);
    ASSERT_LE(draw.contrast, 2.5);
    ++brightness.at(static_cast<std::size_t>((draw.brightness - 0.6) / 0.8 * 10));
    ++hue.at(static_cast<std::size_t>((draw.hue + 0.1) / 0.2 * 10));
    ++orders[{std::begin(draw.order), std::end(draw.order)}];
    if (draw.brightness > 1.2) ++last_when_bright.at(static_cast<std::size_t>(draw.order[3]));
    if (draw.hue > 0.05) ++last_when_blue.at(static_cast<std::size_t>(draw.order[3]));
  }
  EXPECT_LT(test::chi_square(brightness), test::chi_square_limit(10));
  EXPECT_LT(test::chi_square(hue), test::chi_square_limit(10));
  EXPECT_LT(test::chi_square(last_when_bright), test::chi_square_limit(4));
  EXPECT_LT(test::chi_square(last_when_blue), test::chi_square_limit(4));
  ASSERT_EQ(orders.size(), 24U);
  std::vector<std::int64_t> counts;
  for (const auto& [order, count] : orders) counts.push_back(count);
  EXPECT_LT(test::chi_square(counts), test::chi_square_limit(24));
}

TEST(ResizedCrop, FollowsTorchvisionsLaw) {
  // In an image so large that rounding is nothing: the area is uniform, the logarithm of the proportions too, and any
  // place as likely. Boxes that do not fit are drawn again, so areas are kept below those that can fail to fit.
  const ImageSize image{100000, 100000};
  std::vector<std::int64_t> area(10);
  std::vector<std::int64_t> ratio(10);
  std::vector<std::int64_t> top(10);
  std::int64_t small = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const Box box = draw_resized_crop({.least_area = 0.08}, ExampleNoise(3, 1, i), image);
    ASSERT_TRUE(box.top >= 0 && box.left >= 0 && box.top + box.height <= image.height &&
                box.left + box.width <= image.width);
    const double share = static_cast<double>(box.height) * static_cast<double>(box.width) / 1e10;
    const double proportions = static_cast<double>(box.width) / static_cast<double>(box.height);
    ASSERT_GT(share, 0.08 - 1e-4);
    ASSERT_GT(proportions, 0.75 - 1e-4);
    ASSERT_LT(proportions, 4.0 / 3.0 + 1e-4);
    if (share >= 0.7) continue;  // below 3/4 every box fits
    ++small;
    ++area.at(static_cast<std::size_t>((share - 0.08) / 0.62 * 10 * 0.99999));
    ++ratio.at(static_cast<std::size_t>(
        std::clamp((std::log(proportions) - std::log(0.75)) / (2 * std::log(4.0 / 3.0)) * 10, 0.0, 9.99)));
    ++top.at(static_cast<std::size_t>(static_cast<double>(box.top) /
                                      static_cast<double>(image.height - box.height + 1) * 10));
  }
  // Without the rejected ones 62/92 of all draws; rejection makes small boxes likelier.
  EXPECT_GT(static_cast<double>(small) / kDraws, 0.62 / 0.92);
  EXPECT_LT(test::chi_square(area), test::chi_square_limit(10));
  EXPECT_LT(test::chi_square(ratio), test::chi_square_limit(10));
  EXPECT_LT(test::chi_square(top), test::chi_square_limit(10));
}

TEST(ResizedCrop, WhereNothingFitsTheMiddle) {
  // A line of pixels: no box of allowed proportions and an eighth of its area fits.
  EXPECT_EQ(draw_resized_crop({.least_area = 0.5}, ExampleNoise(0, 0, 0), {1000, 10}), (Box{493, 0, 13, 10}));
  EXPECT_EQ(draw_resized_crop({.least_area = 0.5}, ExampleNoise(0, 0, 0), {10, 1000}), (Box{0, 493, 10, 13}));
  EXPECT_EQ(draw_resized_crop({.least_area = 0.08}, ExampleNoise(0, 0, 0), {1, 1}), (Box{0, 0, 1, 1}));
}

TEST(CropAndFlip, BytesMoveAsNumbersDo) {
  // augment() on numbers, whose laws other tests hold, and crop_and_flip() on bytes are one change.
  ExampleSpec spec;
  spec.input_shape = {3, 9, 11};
  const Augmentation augmentation = Augmentation::parse("crop:4,flip");
  for (std::int64_t example = 0; example < 200; ++example) {
    const Bytes pattern = test::pattern(9, 11);
    Batch bytes{.size = 1, .inputs = {}, .pixels{pattern.begin(), pattern.end()}, .labels = {}, .targets = {}};
    Batch numbers = bytes;
    normalize(spec, numbers);
    augment(augmentation, 5, spec, {{example}, {2}}, numbers);
    std::vector<std::uint8_t> memory;
    crop_and_flip(draw_crop_and_flip(augmentation, ExampleNoise(5, 2, example)), {9, 11}, 3, bytes.pixels.data(),
                  memory);
    normalize(spec, bytes);
    ASSERT_EQ(bytes.inputs, numbers.inputs) << example;
  }
}

TEST(Augmentation, SpecsOfDecodedImages) {
  const Augmentation all = Augmentation::parse("resized-crop:0.25,flip,jitter:0.4/0.3/0.2/0.1");
  EXPECT_EQ(all.resized_crop, (Augmentation::ResizedCrop{0.25}));
  EXPECT_EQ(all.jitter, (Augmentation::Jitter{0.4, 0.3, 0.2, 0.1}));
  EXPECT_EQ(Augmentation::parse("jitter:0.4").jitter, (Augmentation::Jitter{0.4, 0.4, 0.4, 0.0}));
  EXPECT_EQ(Augmentation::parse("resized-crop").resized_crop, (Augmentation::ResizedCrop{0.08}));
  for (const char* wrong :
       {"resized-crop:0", "resized-crop:2", "resized-crop:", "jitter", "jitter:", "jitter:-1", "jitter:0.1/0.1/0.1/0.6",
        "jitter:1/2", "jitter:0", "resized-crop,crop:4", "flip,", ",flip", "jitter:0.1,jitter:0.1"})
    EXPECT_THROW(Augmentation::parse(wrong), UserError) << wrong;
  EXPECT_THAT([] { Augmentation::parse("resize-crop"); },
              ThrowsMessage<UserError>(HasSubstr("did you mean 'resized-crop'")));
  ExampleSpec spec;
  spec.input_shape = {3, 28, 28};
  EXPECT_THAT([&] { check_augmentation(all, spec); }, ThrowsMessage<UserError>(HasSubstr("crop and flip only")));
  EXPECT_NO_THROW(check_augmentation(all, spec, true));
  spec.input_shape = {1, 28, 28};
  EXPECT_THROW(check_augmentation(all, spec, true), UserError);
}

/// Images in folders, read by loaders of all kinds.
class ImageLoader : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(directory.path() / "a");
    for (int i = 0; i < 20; ++i)
      directory.write("a/" + std::to_string(i + 10), test::text(test::jpeg(40 + i, 70 - i, 85)));
    source = open_data("images:" + directory.path().string(), Split::train, {.image_size = "24"});
  }
  std::vector<Batch> batches(const SamplingPlan& plan, const Loader::Options& options, int count) const {
    Loader loader(*source, plan, options);
    std::vector<Batch> result;
    for (int i = 0; i < count; ++i) result.push_back(loader.next());
    return result;
  }
  test::TemporaryDirectory directory;
  std::unique_ptr<DataSource> source;
};

TEST_F(ImageLoader, TheSamePixelsForAnyThreadsShardsAndResumes) {
  const Augmentation augmentation = Augmentation::parse("resized-crop,flip,jitter:0.4/0.4/0.4/0.1");
  const auto joined = [](const std::vector<Batch>& all) {
    Bytes pixels;
    std::vector<std::int64_t> labels;
    for (const Batch& batch : all) {
      pixels.insert(pixels.end(), batch.pixels.begin(), batch.pixels.end());
      labels.insert(labels.end(), batch.labels.begin(), batch.labels.end());
    }
    return std::pair(pixels, labels);
  };
  Loader::Options options{.first_step = 0,
                          .first_shard = 0,
                          .shard_count = 1,
                          .depth = 3,
                          .threads = 1,
                          .augmentation = augmentation,
                          .seed = 9};
  const auto expected = joined(batches(SamplingPlan(4, 20, 16, 1), options, 6));
  for (const int threads : {2, 5}) {
    options.threads = threads;
    EXPECT_EQ(joined(batches(SamplingPlan(4, 20, 16, 1), options, 6)), expected) << threads;
  }
  options.shard_count = 4;
  EXPECT_EQ(joined(batches(SamplingPlan(4, 20, 16, 4), options, 24)), expected) << "four shards of one rank";
  options.first_step = 3;
  const auto rest = joined(batches(SamplingPlan(4, 20, 16, 4), options, 12));
  EXPECT_TRUE(std::equal(rest.first.begin(), rest.first.end(),
                         expected.first.begin() + static_cast<std::ptrdiff_t>(expected.first.size() / 2)))
      << "resumed at the fourth step";
  options.augmentation = {};
  EXPECT_NE(joined(batches(SamplingPlan(4, 20, 16, 4), options, 12)).first, rest.first);
}

TEST_F(ImageLoader, ABrokenImageStopsItsOwnBatchOnly) {
  directory.write("a/17", "broken");
  const SamplingPlan plan(4, 20, 5, 1);
  int broken = -1;
  for (int step = 0; step < 4; ++step)
    for (const std::int64_t example : plan.select(step, 0).examples)
      if (example == 7) broken = step;
  for (const int threads : {1, 4}) {
    Loader loader(*source, plan, {.depth = 6, .threads = threads});
    for (int step = 0; step < broken; ++step) EXPECT_EQ(loader.next().size, 5);
    for (int again = 0; again < 2; ++again)
      EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DataError>(HasSubstr("a/17: the content is neither")));
  }
}

/// Tells what of it is in use, and how often more was asked for.
class CountedMemory : public std::pmr::memory_resource {
 public:
  bool holds(std::span<const std::uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.upper_bound(bytes.data());
    if (block == blocks_.begin()) return false;
    const auto& [begin, size] = *std::prev(block);
    return bytes.data() + bytes.size() <= begin + size;
  }
  std::size_t blocks() {
    const std::lock_guard lock(mutex_);
    return blocks_.size();
  }
  int allocations() {
    const std::lock_guard lock(mutex_);
    return allocations_;
  }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    void* const memory = std::pmr::new_delete_resource()->allocate(bytes, alignment);
    const std::lock_guard lock(mutex_);
    blocks_[static_cast<std::uint8_t*>(memory)] = bytes;
    ++allocations_;
    return memory;
  }
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
    {
      const std::lock_guard lock(mutex_);
      blocks_.erase(static_cast<std::uint8_t*>(memory));
    }
    std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  std::mutex mutex_;
  std::map<const std::uint8_t*, std::size_t> blocks_;
  int allocations_ = 0;
};

TEST_F(ImageLoader, KeepsItsPixelsInTheMemoryGivenAndUsesItAgain) {
  const SamplingPlan plan(4, 20, 10, 1);
  for (const int depth : {1, 4}) {
    CountedMemory memory;
    {
      Loader loader(*source, plan, {.depth = depth, .threads = 3, .pixel_memory = &memory});
      for (int i = 0; i < 4 * (depth + 1); ++i) {
        EXPECT_TRUE(memory.holds(loader.next().pixels)) << i;
        EXPECT_LE(memory.blocks(), static_cast<std::size_t>(depth) + 1) << i;
      }
      EXPECT_EQ(memory.allocations(), depth + 1) << "one for each batch of the ring";
    }
    EXPECT_EQ(memory.blocks(), 0U);
  }
}

TEST_F(ImageLoader, EndsAtAnyTime) {
  const SamplingPlan plan(4, 20, 10, 1);
  for (int round = 0; round < 60; ++round) {
    Loader loader(*source, plan, {.depth = 1 + round % 4, .threads = 1 + round % 3});
    for (int i = 0; i < round % 5; ++i) loader.next();
  }
}

}  // namespace
}  // namespace credence
