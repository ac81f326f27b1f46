#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "credence/base/errors.h"
#include "unit/checkpoint/sample.h"

namespace credence {
namespace {

using namespace credence::testing;
using ::testing::HasSubstr;

TEST(Checkpoint, ReturnsEveryTypeAndShapeBitForBit) {
  const ScratchDirectory directory;
  const Sample sample = make_sample();
  write_checkpoint(directory / "a.h5", sample.contents);
  const Checkpoint checkpoint(directory / "a.h5");
  expect_equal(checkpoint, sample.contents);
  EXPECT_EQ(checkpoint.file(), directory / "a.h5");
  EXPECT_EQ(checkpoint.integer("step"), 1200);
  EXPECT_EQ(checkpoint.integer("complete"), 1);
  EXPECT_TRUE(std::is_sorted(checkpoint.arrays().begin(), checkpoint.arrays().end(),
                             [](const ArrayView& a, const ArrayView& b) { return a.name < b.name; }));
  EXPECT_THAT(verify_checkpoint(directory / "a.h5"), ::testing::IsEmpty());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1) << "a temporary file is left";
}

TEST(Checkpoint, IsAFunctionOfItsContents) {
  const ScratchDirectory directory;
  write_checkpoint(directory / "a.h5", make_sample().contents);
  write_checkpoint(directory / "b.h5", make_sample().contents);
  EXPECT_EQ(bytes_of_file(directory / "a.h5"), bytes_of_file(directory / "b.h5"));
  write_checkpoint(directory / "b.h5", make_sample(1201).contents);
  EXPECT_NE(bytes_of_file(directory / "a.h5"), bytes_of_file(directory / "b.h5"));
}

TEST(Checkpoint, HoldsLargeArraysOddSizesAndManyTensors) {
  const ScratchDirectory directory;
  Sample sample = make_sample();
  std::vector<float> values(3'000'001);  // more than one piece, and not a multiple of any
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  sample.add<float>("posterior/large/mean", {3'000'001}, values);
  for (int i = 0; i < 500; ++i) {
    sample.add<double>("posterior/layer" + std::to_string(i) + ".weight/mean", {1}, {static_cast<double>(i)});
  }
  write_checkpoint(directory / "a.h5", sample.contents);
  expect_equal(Checkpoint(directory / "a.h5"), sample.contents);
  // The structure must stay small beside the numbers.
  EXPECT_LT(std::filesystem::file_size(directory / "a.h5"), 4 * values.size() + 520 * 2048);
}

TEST(Checkpoint, KeepsNotANumberInfinityEmptyAndLongText) {
  const ScratchDirectory directory;
  Sample sample = make_sample();
  sample.contents.attributes["epoch"] = std::numeric_limits<double>::quiet_NaN();
  sample.contents.attributes["empty"] = std::string();
  sample.contents.attributes["long"] = std::string(200'000, 'x');
  sample.contents.config = "";
  write_checkpoint(directory / "a.h5", sample.contents);
  const Checkpoint checkpoint(directory / "a.h5");
  EXPECT_TRUE(std::isnan(std::get<double>(checkpoint.attributes().at("epoch"))));
  EXPECT_EQ(std::get<std::string>(checkpoint.attributes().at("empty")), "");
  EXPECT_EQ(checkpoint.attributes().at("long"), sample.contents.attributes["long"]);
  EXPECT_EQ(checkpoint.config(), "");
}

TEST(Checkpoint, ConvertsToDoubles) {
  const ScratchDirectory directory;
  write_checkpoint(directory / "a.h5", make_sample().contents);
  const Checkpoint checkpoint(directory / "a.h5");
  EXPECT_THAT(checkpoint.read_doubles("posterior/fc1.weight/mean"),
              ::testing::ElementsAre(1200.5, -1, 2, 3, 0, static_cast<double>(1e-38f)));
  EXPECT_THAT(checkpoint.read_doubles("history/elbo"), ::testing::ElementsAre(-1203, -2, -1));
  EXPECT_THAT(checkpoint.read_doubles("buffers/bn.num_batches_tracked"), ::testing::ElementsAre(1200));
  EXPECT_THAT(checkpoint.read_doubles("buffers/mask"), ::testing::ElementsAre(1, 0, 255, 7, 1200 % 256));
  EXPECT_THAT(checkpoint.read_doubles("buffers/empty"), ::testing::IsEmpty());
}

TEST(Checkpoint, RefusesToReadAnotherShapeTypeOrName) {
  const ScratchDirectory directory;
  write_checkpoint(directory / "a.h5", make_sample().contents);
  const Checkpoint checkpoint(directory / "a.h5");
  float values[6];
  const auto read = [&](const char* name, DType dtype, std::vector<std::int64_t> shape) {
    return message_of<DataError>([&] { checkpoint.read({name, dtype, std::move(shape), values}); });
  };
  EXPECT_THAT(read("posterior/fc1.weight/mean", DType::float32, {3, 2}),
              HasSubstr("float32 [2, 3], not float32 [3, 2]"));
  EXPECT_THAT(read("posterior/fc1.weight/mean", DType::int64, {2, 3}), HasSubstr("not int64"));
  EXPECT_THAT(read("posterior/fc2.weight/mean", DType::float32, {6}),
              HasSubstr("no array 'posterior/fc2.weight/mean'"));
  EXPECT_THAT(message_of<DataError>([&] { checkpoint.integer("epoch"); }), HasSubstr("'epoch' is not an integer"));
  EXPECT_THAT(message_of<DataError>([&] { checkpoint.integer("absent"); }), HasSubstr("lacks the attribute 'absent'"));
  EXPECT_FALSE(checkpoint.contains("posterior/fc2.weight/mean"));
  EXPECT_TRUE(checkpoint.attributes_of("posterior/bias").empty());
}

TEST(Checkpoint, RefusesContentsThatBreakTheFormat) {
  const ScratchDirectory directory;
  const auto attempt = [&](auto&& change) {
    Sample sample = make_sample();
    change(sample);
    write_checkpoint(directory / "a.h5", sample.contents);
  };
  for (const char* name : {"step", "epoch", "seed", "shards", "world_size", "dataset_size"}) {
    EXPECT_THAT(message_of<InternalError>([&] { attempt([&](Sample& s) { s.contents.attributes.erase(name); }); }),
                HasSubstr(name));
  }
  EXPECT_THAT(message_of<InternalError>([&] { attempt([](Sample& s) { s.contents.attributes["step"] = 1.0; }); }),
              HasSubstr("step"));
  for (const char* name : {"posterior/a/b/mean", "buffers/a/b", "posterior/a", "optimizer/adam", "loose", "a//b", "a/",
                           "/a/b", "buffers/..", "buffers/."}) {
    EXPECT_THAT(message_of<UserError>([&] { attempt([&](Sample& s) { s.add<float>(name, {1}, {1.f}); }); }),
                HasSubstr(name));
  }
  EXPECT_THROW(attempt([](Sample& s) { s.add<float>("history/loss", {1}, {1.f}); }), UserError);
  EXPECT_THROW(attempt([](Sample& s) { s.add<double>("history/loss", {}, {1.0}); }), UserError);
  EXPECT_THROW(attempt([](Sample& s) { s.add<float>("buffers/mask", {1}, {1.f}); }), InternalError);
  EXPECT_THROW(attempt([](Sample& s) { s.contents.arrays[0].data = nullptr; }), InternalError);
  EXPECT_THROW(attempt([](Sample& s) { s.contents.config.push_back('\0'); }), InternalError);
  EXPECT_THROW(attempt([](Sample& s) { s.contents.attributes["format"] = std::string("x"); }), InternalError);
  EXPECT_THROW(attempt([](Sample& s) { s.contents.array_attributes["buffers/mask"]["xxh3_128"] = 1.0; }),
               InternalError);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << "a refused checkpoint left something behind";
}

TEST(Checkpoint, NamesItsFilesByStep) {
  EXPECT_EQ(checkpoint_name(2344), "checkpoint-00002344.h5");
  EXPECT_EQ(checkpoint_name(0), "checkpoint-00000000.h5");
  EXPECT_EQ(checkpoint_name(1234567890), "checkpoint-1234567890.h5");
  EXPECT_THROW(checkpoint_name(-1), InternalError);
}

}  // namespace
}  // namespace credence
