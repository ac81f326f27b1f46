#include "credence/data/open.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "credence/data/moons.h"
#include "unit/data/files.h"

namespace credence {
namespace {

using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;
using testing::UnorderedElementsAre;

auto opening(const std::string& spec, const DataOptions& options = {}) {
  return [=] { open_data(spec, Split::train, options); };
}

TEST(OpenData, KnowsItsNames) {
  EXPECT_THAT(data_names(),
              UnorderedElementsAre("moons", "csv", "mnist", "fashion-mnist", "images", "cifar10", "cifar100", "pack"));
}

TEST(OpenData, AnUnknownNameComesWithTheNearest) {
  for (const auto& [given, nearest] : std::map<std::string, std::string>{{"moon", "moons"},
                                                                         {"Moons:3", "moons"},
                                                                         {"minst:x", "mnist"},
                                                                         {"fashion_mnist", "fashion-mnist"},
                                                                         {"cvs:a.csv", "csv"},
                                                                         {"", "csv"}})
    EXPECT_THAT(opening(given), ThrowsMessage<UserError>(AllOf(
                                    HasSubstr(fmt::format("unknown data '{}'", given.substr(0, given.find(':')))),
                                    HasSubstr(fmt::format("did you mean '{}'?", nearest)),
                                    HasSubstr("fashion-mnist, mnist, moons, csv, images, cifar10, cifar100, pack"))));
}

TEST(OpenData, Moons) {
  EXPECT_EQ(open_data("moons", Split::test)->digest(), make_moons({.seed = 0}, Split::test)->digest());
  EXPECT_EQ(open_data("moons:", Split::test)->digest(), make_moons({.seed = 0}, Split::test)->digest());
  EXPECT_EQ(open_data("moons:12", Split::train)->digest(), make_moons({.seed = 12}, Split::train)->digest());
  for (const char* const seed : {"x", "-1", "1.5", "1 ", "99999999999999999999"})
    EXPECT_THAT(opening(std::string("moons:") + seed), ThrowsMessage<UserError>(HasSubstr("is a seed")));
  EXPECT_THAT(opening("moons:72057594037927936"), ThrowsMessage<UserError>(HasSubstr("below 2^56")));
}

TEST(OpenData, Csv) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("a:b.csv", "x,y\n1,0\n").string();
  EXPECT_EQ(open_data("csv:" + file, Split::train)->size(), 1) << "only the first colon separates";
  EXPECT_THAT(opening("csv"), ThrowsMessage<UserError>(HasSubstr("csv:FILE")));
  EXPECT_THAT(opening("csv:"), ThrowsMessage<UserError>(HasSubstr("csv:FILE")));
}

TEST(OpenData, MissingFilesSayHowToGetThem) {
  EXPECT_THAT(opening("mnist"), ThrowsMessage<UserError>(HasSubstr("mnist:DIR")));
  EXPECT_THAT(opening("mnist:/nowhere"),
              ThrowsMessage<DataError>(AllOf(HasSubstr("/nowhere/train-images-idx3-ubyte is missing"),
                                             HasSubstr("mnist:DIR needs the folder"))));
  EXPECT_THAT(opening("fashion-mnist:/nowhere"),
              ThrowsMessage<DataError>(AllOf(HasSubstr("/nowhere/train-images-idx3-ubyte is missing"),
                                             HasSubstr("apt-get install dataset-fashion-mnist"))));
}

TEST(OpenData, AnotherNormalisationAndTheSameDigest) {
  const TemporaryDirectory directory;
  directory.write("train-images-idx3-ubyte", test::idx_header(0x803, {2, 1, 2}) + std::string{'\xff', 0, 51, 102});
  directory.write("train-labels-idx1-ubyte", test::idx_header(0x801, {2}) + std::string{3, 4});
  const std::string folder = directory.path().string();
  const auto mnist = open_data("mnist:" + folder, Split::train);
  const auto fashion = open_data("fashion-mnist:" + folder, Split::train);
  EXPECT_EQ(mnist->spec().normalization, (Normalization{{0.1307}, {0.3081}}));
  EXPECT_EQ(fashion->spec().normalization, (Normalization{{0.2860}, {0.3530}}));
  const auto as_fashion = open_data("mnist:" + folder, Split::train, {.normalization = fashion->spec().normalization});
  EXPECT_EQ(as_fashion->digest(), mnist->digest());

  const std::vector<std::int64_t> both{0, 1};
  Batch own, other, expected;
  mnist->read(both, own);
  as_fashion->read(both, other);
  fashion->read(both, expected);
  EXPECT_EQ(other.inputs, expected.inputs);
  EXPECT_FLOAT_EQ(own.inputs[0], static_cast<float>((1 - 0.1307) / 0.3081));
  EXPECT_FLOAT_EQ(other.inputs[3], static_cast<float>((0.4 - 0.2860) / 0.3530));
}

TEST(OpenData, OnlyImagesTakeANormalisation) {
  EXPECT_THAT(opening("moons", {.normalization = Normalization{{0.5}, {0.5}}}),
              ThrowsMessage<UserError>(HasSubstr("holds no images")));
  EXPECT_NO_THROW(opening("moons", {.normalization = Normalization{}})());
}

TEST(Split, Names) {
  EXPECT_EQ(parse_split("train"), Split::train);
  EXPECT_EQ(parse_split("test"), Split::test);
  EXPECT_THAT([] { parse_split("val"); }, ThrowsMessage<UserError>(HasSubstr("unknown split 'val'")));
}

}  // namespace
}  // namespace credence
