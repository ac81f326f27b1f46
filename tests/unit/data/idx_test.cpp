#include "credence/data/idx.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <random>

#include "credence/base/errors.h"
#include "credence/data/open.h"
#include "unit/data/files.h"

namespace credence {
namespace {

using test::TemporaryDirectory;
using test::whole;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::uint32_t kImages = 0x803;
constexpr std::uint32_t kLabels = 0x801;

// Three images of 2 x 3 pixels.
const std::string kPixels = {0,      1,  2,  3,  4,  5,   //
                             '\xff', 0,  0,  0,  0,  51,  //
                             10,     20, 30, 40, 50, 60};
std::string images_file() {
  return test::idx_header(kImages, {3, 2, 3}) + kPixels;
}
std::string labels_file() {
  return test::idx_header(kLabels, {3}) + std::string{7, 0, 9};
}

class Idx : public testing::Test {
 protected:
  IdxSource open(const std::string& images, const std::string& labels, const Normalization& normalization = {}) {
    IdxFiles files;
    files.images = directory_.write("images", images);
    files.labels = directory_.write("labels", labels);
    files.normalization = normalization;
    return IdxSource(files);
  }
  void refused(const std::string& images, const std::string& labels, const std::string& message) {
    EXPECT_THAT([&] { open(images, labels); },
                ThrowsMessage<DataError>(AllOf(HasSubstr(directory_.path().string()), HasSubstr(message))));
  }
  TemporaryDirectory directory_;
};

TEST_F(Idx, ReadsWhatTheBytesSay) {
  const IdxSource source = open(images_file(), labels_file(), {{0.2}, {0.4}});
  EXPECT_EQ(source.size(), 3);
  EXPECT_THAT(source.spec().input_shape, ElementsAre(1, 2, 3));
  EXPECT_EQ(source.spec().classes, 10);
  Batch batch;
  source.read(std::vector<std::int64_t>{1, 0}, batch);
  EXPECT_THAT(batch.labels, ElementsAre(0, 7));
  ASSERT_EQ(batch.inputs.size(), 12U);
  EXPECT_FLOAT_EQ(batch.inputs[0], 2.0F);    // (255/255 - 0.2) / 0.4
  EXPECT_FLOAT_EQ(batch.inputs[1], -0.5F);   // (0 - 0.2) / 0.4
  EXPECT_NEAR(batch.inputs[5], 0.0F, 1e-8);  // (51/255 - 0.2) / 0.4
  EXPECT_FLOAT_EQ(batch.inputs[11], static_cast<float>((5 / 255.0 - 0.2) / 0.4));
}

TEST_F(Idx, PlainAndGzipAreTheSame) {
  const std::string digest = open(images_file(), labels_file()).digest();
  EXPECT_EQ(open(test::gzip(images_file()), test::gzip(labels_file())).digest(), digest);
  EXPECT_EQ(open(images_file(), labels_file(), {{0.2}, {0.4}}).digest(), digest) << "normalisation is no content";
  // gzip files may be concatenated, even to a part of nothing.
  const std::string images = images_file();
  const std::string joined = test::gzip(images.substr(0, 9)) + test::gzip("") + test::gzip(images.substr(9));
  EXPECT_EQ(open(joined, labels_file()).digest(), digest);
  for (std::size_t i = 0; i < kPixels.size(); ++i) {
    std::string other = images_file();
    other[16 + i] = static_cast<char>(other[16 + i] ^ 1);
    EXPECT_NE(open(other, labels_file()).digest(), digest);
  }
  EXPECT_NE(open(images_file(), test::idx_header(kLabels, {3}) + std::string{7, 1, 9}).digest(), digest);
  EXPECT_NE(open(test::idx_header(kImages, {3, 3, 2}) + kPixels, labels_file()).digest(), digest);
}

TEST_F(Idx, WrongMagicSaysWhatWasFound) {
  refused(labels_file(), labels_file(), "magic number 0x00000801 (labels), not with 0x00000803");
  refused(images_file(), images_file(), "magic number 0x00000803 (images), not with 0x00000801");
  refused("P5 28 28 ", labels_file(), "magic number 0x50352032, not with 0x00000803");
  refused(test::idx_header(0xd03, {3, 2, 3}) + kPixels, labels_file(), "0x00000d03");
}

TEST_F(Idx, CountsThatDiffer) {
  refused(images_file(), test::idx_header(kLabels, {2}) + std::string{1, 2}, "holds 3 images, but");
  refused(images_file(), test::idx_header(kLabels, {4}) + std::string{1, 2, 3, 4}, "holds 4 labels");
}

TEST_F(Idx, LabelsOutOfRangeAreNamed) {
  refused(images_file(), test::idx_header(kLabels, {3}) + std::string{1, 9, 10},
          "the label of record 2 is 10, outside 0 to 9");
  refused(images_file(), test::idx_header(kLabels, {3}) + std::string{1, '\xff', 0},
          "the label of record 1 is 255, outside 0 to 9");
}

TEST_F(Idx, TrailingBytes) {
  refused(images_file() + "x", labels_file(), "goes on after the 18 bytes that its header announces");
  refused(images_file(), labels_file() + std::string(1, '\0'), "goes on after the 3 bytes");
  refused(test::gzip(images_file() + "x"), labels_file(), "goes on after the 18 bytes");
  refused(test::gzip(images_file()) + "x", labels_file(), "is truncated");
  refused(test::gzip(images_file()) + "rubbish of some length", labels_file(), "is damaged");
}

TEST_F(Idx, HostileSizes) {
  const std::uint32_t most = 0xffffffff;
  for (const auto& shape : std::vector<std::vector<std::uint32_t>>{
           {most, most, most}, {0x80000000, 0x80000000, 4}, {0x10000, 0x10000, 0x10000}, {3, most, 1}, {most, 1, 1}}) {
    refused(test::idx_header(kImages, shape) + kPixels, labels_file(), "more than the file can hold");
    refused(test::gzip(test::idx_header(kImages, shape) + kPixels), labels_file(), "more than the file can hold");
  }
  refused(images_file(), test::idx_header(kLabels, {most}), "more than the file can hold");
  for (const auto& shape : std::vector<std::vector<std::uint32_t>>{{0, 2, 3}, {3, 0, 3}, {3, 2, 0}, {0, most, most}})
    refused(test::idx_header(kImages, shape), labels_file(), "is empty: one of its dimensions is 0");
}

TEST_F(Idx, TruncatedAtEveryLength) {
  for (const std::string& images : {images_file(), test::gzip(images_file())})
    for (std::size_t length = 0; length < images.size(); ++length)
      refused(images.substr(0, length), labels_file(), "is truncated");
  for (const std::string& labels : {labels_file(), test::gzip(labels_file())})
    for (std::size_t length = 0; length < labels.size(); ++length)
      refused(images_file(), labels.substr(0, length), "is truncated");
}

TEST_F(Idx, DamagedGzipIsNoticedOrHarmless) {
  const std::string packed = test::gzip(images_file());
  const std::string digest = open(packed, labels_file()).digest();
  int noticed = 0;
  const auto try_one = [&](const std::string& damaged) {
    try {
      EXPECT_EQ(open(damaged, labels_file()).digest(), digest);
    } catch (const DataError&) {
      ++noticed;
    }
  };
  for (std::size_t byte = 0; byte < packed.size(); ++byte)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = packed;
      damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << bit));
      try_one(damaged);
    }
  // Harmless are at most 56 bits: time (4 bytes), extra flags and operating system (1 each), the flag "text", and 7
  // bits that may fill up the last byte of the packed data.
  const int bits = static_cast<int>(packed.size()) * 8;
  EXPECT_GE(noticed, bits - 56);
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string damaged = packed;
    for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips)
      damaged[random() % damaged.size()] = static_cast<char>(random());
    try_one(damaged);
  }
}

TEST_F(Idx, DamagedPlainFilesNeverCrash) {
  std::mt19937 random(2);
  int opened = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string images = images_file();
    std::string labels = labels_file();
    for (std::string* bytes : {&images, &labels}) (*bytes)[random() % bytes->size()] = static_cast<char>(random());
    try {
      const IdxSource source = open(images, labels);
      Batch batch;
      source.read(std::vector<std::int64_t>{source.size() - 1}, batch);
      EXPECT_EQ(batch.inputs.size(), 6U);
      ++opened;
    } catch (const DataError&) {
    }
  }
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, 1000);
}

TEST_F(Idx, FindsFilesByTheirPublishedNames) {
  directory_.write("t10k-images-idx3-ubyte.gz", test::gzip(images_file()));
  directory_.write("t10k-labels.idx1-ubyte", labels_file());
  const IdxFiles files = find_idx_files(directory_.path(), Split::test, "");
  EXPECT_EQ(files.images, directory_.path() / "t10k-images-idx3-ubyte.gz");
  EXPECT_EQ(files.labels, directory_.path() / "t10k-labels.idx1-ubyte");
  directory_.write("t10k-images-idx3-ubyte", images_file());
  EXPECT_EQ(find_idx_files(directory_.path(), Split::test, "").images, directory_.path() / "t10k-images-idx3-ubyte");
  EXPECT_THAT([&] { find_idx_files(directory_.path(), Split::train, "get them"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr((directory_.path() / "train-images-idx3-ubyte").string()),
                                             HasSubstr("is missing"), HasSubstr("get them"))));
}

class FashionMnist : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist"))
      GTEST_SKIP() << "the package dataset-fashion-mnist is not installed";
  }
};

TEST_F(FashionMnist, IsAsPublished) {
  for (const Split split : {Split::train, Split::test}) {
    const auto source = open_data("fashion-mnist", split, {.normalization = Normalization{}});
    const std::int64_t examples = split == Split::train ? 60000 : 10000;
    ASSERT_EQ(source->size(), examples);
    EXPECT_THAT(source->spec().input_shape, ElementsAre(1, 28, 28));
    EXPECT_EQ(source->spec().classes, 10);
    EXPECT_EQ(source->spec().class_names.at(9), "Ankle boot");

    std::vector<std::int64_t> of_class(10), block(1000);
    double sum = 0, squares = 0;
    Batch batch;
    for (std::int64_t first = 0; first < examples; first += 1000) {
      std::iota(block.begin(), block.end(), first);
      source->read(block, batch);
      for (const std::int64_t label : batch.labels) ++of_class.at(static_cast<std::size_t>(label));
      for (const double pixel : batch.inputs) sum += pixel, squares += pixel * pixel;
      // The first labels of the published files.
      if (first == 0) {
        const std::vector<std::int64_t> expected =
            split == Split::train ? std::vector<std::int64_t>{9, 0, 0, 3, 0} : std::vector<std::int64_t>{9, 2, 1, 1, 6};
        EXPECT_EQ(std::vector<std::int64_t>(batch.labels.begin(), batch.labels.begin() + 5), expected);
      }
    }
    EXPECT_EQ(of_class, std::vector<std::int64_t>(10, examples / 10));
    if (split == Split::train) {
      const double pixels = 60000.0 * 784;
      const double mean = sum / pixels;
      EXPECT_NEAR(mean, 0.2860, 0.00005);
      EXPECT_NEAR(std::sqrt(squares / pixels - mean * mean), 0.3530, 0.00005);
    }
  }
}

TEST_F(FashionMnist, IsNormalisedToMeanZeroAndVarianceOne) {
  const auto source = open_data("fashion-mnist", Split::train);
  EXPECT_EQ(source->spec().normalization, (Normalization{{0.2860}, {0.3530}}));
  const Batch batch = whole(*source);
  double sum = 0, squares = 0;
  for (const double value : batch.inputs) sum += value, squares += value * value;
  const double values = static_cast<double>(batch.inputs.size());
  // Mean and deviation are published to four digits.
  EXPECT_NEAR(sum / values, 0, 0.00005 / 0.3530);
  EXPECT_NEAR(squares / values, 1, 2 * 0.00005 / 0.3530);
}

TEST(Mnist, ReadsTheSharedTestSet) {
  const auto directory = test::shared_data("mnist");
  if (directory.empty()) GTEST_SKIP() << "CREDENCE_SHARED_DATA does not lead to mnist/";
  const auto source = open_data("mnist:" + directory.string(), Split::test);
  EXPECT_EQ(source->size(), 10000);
  const Batch batch = whole(*source);
  std::vector<int> of_class(10);
  for (const std::int64_t label : batch.labels) ++of_class.at(static_cast<std::size_t>(label));
  EXPECT_THAT(of_class, ElementsAre(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009));
}

TEST_F(Idx, ServesAsImagesForPackingAndForOtherNetworks) {
  directory_.write("train-images-idx3-ubyte", images_file());
  directory_.write("train-labels-idx1-ubyte", labels_file());
  const std::string spec = "mnist:" + directory_.path().string();
  const auto store = open_store(spec, Split::train);
  EXPECT_EQ(store->size(), 3);
  EXPECT_EQ(store->channels(), 1);
  EXPECT_EQ(store->label(2), 9);
  EXPECT_FALSE(store->has_other_split());
  std::vector<std::uint8_t> buffer;
  const StoredImage image = store->read(2, buffer);
  EXPECT_EQ(image.size, (ImageSize{2, 3}));
  EXPECT_THAT(std::vector<int>(image.bytes.begin(), image.bytes.end()), ElementsAre(10, 20, 30, 40, 50, 60));

  // As out-of-distribution data of a network for coloured images: three channels alike.
  const auto source =
      open_data(spec, Split::train, {.normalization = kImageNetNormalization, .trained_shape = {3, 4, 4}});
  EXPECT_THAT(source->spec().input_shape, ElementsAre(3, 4, 4));
  Batch batch;
  source->read(std::vector<std::int64_t>{2}, batch);
  ASSERT_EQ(batch.pixels.size(), 3U * 4 * 4);
  for (std::size_t pixel = 0; pixel < batch.pixels.size(); pixel += 3) {
    EXPECT_EQ(batch.pixels[pixel], batch.pixels[pixel + 1]);
    EXPECT_EQ(batch.pixels[pixel], batch.pixels[pixel + 2]);
  }
  // A network for just such images gets them as they are.
  EXPECT_EQ(open_data(spec, Split::train, {.trained_shape = {1, 2, 3}})->as_images(), nullptr);
}

}  // namespace
}  // namespace credence
