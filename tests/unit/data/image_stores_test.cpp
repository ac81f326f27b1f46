#include <gmock/gmock.h>

#include <fstream>

#include "credence/base/errors.h"
#include "credence/data/image_source.h"
#include "credence/data/open.h"
#include "unit/data/files.h"
#include "unit/data/images.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

auto opening(const std::string& spec, Split split = Split::train, const DataOptions& options = {}) {
  return [=] { open_data(spec, split, options); };
}

/// Class folders with so many images each, sizes and content differing.
struct Folders {
  TemporaryDirectory directory;

  void add(const std::string& folder, int images, int first = 0) const {
    fs::create_directories(directory.path() / folder);
    for (int i = 0; i < images; ++i)
      directory.write(folder + "/" + std::to_string(i) + ".JPEG",
                      test::text(test::jpeg(32, 32 + 4 * (first + i), 90 - first - i)));
  }
  std::string spec() const { return "images:" + directory.path().string(); }
};

TEST(Images, ClassFoldersInSortedOrder) {
  const Folders folders;
  folders.add("b", 2);
  folders.add("a", 3, 2);
  folders.directory.write("a/.hidden", "no image");
  const auto source = open_data(folders.spec(), Split::train, {.image_size = "16"});
  EXPECT_EQ(source->size(), 5);
  EXPECT_THAT(source->spec().class_names, ElementsAre("a", "b"));
  EXPECT_THAT(source->spec().input_shape, ElementsAre(3, 16, 16));
  EXPECT_DOUBLE_EQ(source->spec().normalization.mean.at(0), 0.485);
  const Batch all = test::whole(*source);
  EXPECT_THAT(all.labels, ElementsAre(0, 0, 0, 1, 1));
  EXPECT_EQ(all.pixels.size(), 5U * 16 * 16 * 3);
  EXPECT_EQ(open_data(folders.spec(), Split::test, {.image_size = "16"})->digest(), source->digest())
      << "without train and test both splits are the same";
  EXPECT_EQ(open_data(folders.spec(), Split::train)->spec().input_shape[1], 224);
}

TEST(Images, SplitsOfTheirOwnWithTheSameClasses) {
  const Folders folders;
  folders.add("train/cat", 2);
  folders.add("train/dog", 1);
  folders.add("val/cat", 1, 3);
  EXPECT_THAT(opening(folders.spec(), Split::test),
              ThrowsMessage<DataError>(AllOf(HasSubstr("val has no folder for the class 'dog'"))));
  folders.add("val/dog", 1, 4);
  EXPECT_EQ(open_data(folders.spec(), Split::test)->size(), 2);
  EXPECT_EQ(open_data(folders.spec(), Split::train)->size(), 3);
  folders.add("val/emu", 1, 4);
  EXPECT_THAT(opening(folders.spec(), Split::test), ThrowsMessage<DataError>(HasSubstr("'emu', which")));
  fs::create_directories(folders.directory.path() / "train/empty");
  EXPECT_THAT(opening(folders.spec()), ThrowsMessage<DataError>(HasSubstr("empty holds no images")));
}

TEST(Images, FoldersThatAreNoDataset) {
  const TemporaryDirectory directory;
  const std::string spec = "images:" + directory.path().string();
  EXPECT_THAT(opening(spec), ThrowsMessage<DataError>(HasSubstr("holds no class folders")));
  EXPECT_THAT(opening("images:/nowhere"), ThrowsMessage<DataError>(HasSubstr("/nowhere is none")));
  EXPECT_THAT(opening("images"), ThrowsMessage<UserError>(HasSubstr("images:DIR")));
  fs::create_directories(directory.path() / "train");
  EXPECT_THAT(opening(spec, Split::test), ThrowsMessage<DataError>(HasSubstr("neither test nor val")));
}

TEST(Images, ALinkToNothingIsNoLessAClass) {
  const Folders folders;
  folders.add("a", 1);
  folders.add("c", 1);
  for (const char* target : {"nowhere", "b"}) {  // the second leads to itself
    fs::create_symlink(target, folders.directory.path() / "b");
    EXPECT_THAT(opening(folders.spec()), ThrowsMessage<DataError>(HasSubstr(folders.directory.path() / "b: ")));
    fs::remove(folders.directory.path() / "b");
  }
  fs::create_symlink("nowhere", folders.directory.path() / ".b");
  fs::create_directory_symlink("a", folders.directory.path() / "b");
  EXPECT_EQ(open_data(folders.spec(), Split::train)->spec().classes, 3);
  fs::create_symlink("train", folders.directory.path() / "train");
  EXPECT_THAT(opening(folders.spec()), ThrowsMessage<DataError>(HasSubstr(folders.directory.path() / "train: ")));
}

TEST(Images, SizesThatMakeNoSense) {
  const Folders folders;
  folders.add("a", 1);
  for (const char* wrong : {"0", "-3", "x", "32/31", "32/x", "1/2/3", "100000000"})
    EXPECT_THROW(opening(folders.spec(), Split::train, {.image_size = wrong})(), UserError) << wrong;
  EXPECT_THAT(opening("moons", Split::train, {.image_size = "32"}),
              ThrowsMessage<UserError>(HasSubstr("images that are decoded")));
}

std::string cifar_record(const std::string& labels, int first) {
  std::string record = labels;
  for (int i = 0; i < 3072; ++i) record += static_cast<char>((first + i / 1024 * 100 + i % 1024 % 37) % 256);
  return record;
}

TEST(Cifar, PlanesBecomePixels) {
  const TemporaryDirectory directory;
  for (int i = 1; i <= 5; ++i)
    directory.write("data_batch_" + std::to_string(i) + ".bin", cifar_record({static_cast<char>(i)}, i));
  directory.write("batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
  const std::string spec = "cifar10:" + directory.path().string();
  const auto source = open_data(spec, Split::train);
  EXPECT_THAT(source->spec().input_shape, ElementsAre(3, 32, 32));
  EXPECT_EQ(source->spec().class_names.at(9), "j");
  const Batch all = test::whole(*source);
  EXPECT_THAT(all.labels, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(all.pixels[0], 1);
  EXPECT_EQ(all.pixels[1], 101);
  EXPECT_EQ(all.pixels[2], 201);
  EXPECT_EQ(all.pixels[3], 2);
  EXPECT_EQ(all.pixels[3072 + 3 * 38 + 1], 2 + 100 + 1);
  Batch numbers = all;
  normalize(source->spec(), numbers);
  EXPECT_TRUE(numbers.pixels.empty());
  EXPECT_FLOAT_EQ(numbers.inputs[1], static_cast<float>((2 / 255.0 - 0.4914) / 0.2470)) << "red, second pixel";
  EXPECT_FLOAT_EQ(numbers.inputs[1024], static_cast<float>((101 / 255.0 - 0.4822) / 0.2435)) << "green";

  EXPECT_THAT(opening(spec, Split::test), ThrowsMessage<DataError>(HasSubstr("test_batch.bin is missing")));
  directory.write("test_batch.bin", cifar_record("\x0a", 0));
  EXPECT_THAT(opening(spec, Split::test), ThrowsMessage<DataError>(HasSubstr("label of record 0 is 10")));
  directory.write("test_batch.bin", cifar_record("\x01", 0) + "x");
  EXPECT_THAT(opening(spec, Split::test), ThrowsMessage<DataError>(HasSubstr("truncated or damaged")));
}

TEST(Cifar, TheFineLabelsOfAHundred) {
  const TemporaryDirectory directory;
  directory.write("train.bin", cifar_record("\x07\x2a", 3) + cifar_record("\x13\x63", 9));
  const auto source = open_data("cifar100:" + directory.path().string(), Split::train);
  EXPECT_EQ(source->spec().classes, 100);
  EXPECT_THAT(test::whole(*source).labels, ElementsAre(0x2a, 0x63));
}

TEST(Images, TheRealCifarInFolders) {
  const fs::path zip = test::shared_data("cifar10-jpeg.zip");
  if (zip.empty()) GTEST_SKIP() << "CREDENCE_SHARED_DATA does not lead to cifar10-jpeg.zip";
  const TemporaryDirectory directory;
  const std::string unpack = "unzip -q -d " + directory.path().string() + " " + zip.string() + " 'cifar10/test/*'";
  if (std::system(unpack.c_str()) != 0) GTEST_SKIP() << "no unzip here";
  const auto source = open_data("images:" + (directory.path() / "cifar10").string(), Split::test, {.image_size = "32"});
  EXPECT_EQ(source->size(), 10000);
  EXPECT_EQ(source->spec().classes, 10);
  // Published mean of CIFAR-10's channels; the JPEGs are recompressed.
  const Batch all = test::whole(*source);
  double sum = 0.0;
  for (std::size_t i = 0; i < all.pixels.size(); i += 3) sum += all.pixels[i];
  EXPECT_NEAR(sum / (static_cast<double>(all.pixels.size()) / 3) / 255.0, 0.4914, 0.01);
}

}  // namespace
}  // namespace credence
