#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <thread>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "credence/data/moons.h"

namespace credence {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::ThrowsMessage;

MemoryData labelled() {
  return {.spec = {.input_shape = {2}, .classes = 3, .target_size = 0, .class_names = {}, .normalization = {}},
          .inputs = {0, 1, 10, 11, 20, 21},
          .labels = {2, 0, 1},
          .targets = {}};
}

MemoryData real_valued() {
  return {.spec = {.input_shape = {1}, .classes = 0, .target_size = 2, .class_names = {}, .normalization = {}},
          .inputs = {5, 6},
          .labels = {},
          .targets = {50, 51, 60, 61}};
}

auto making(MemoryData data) {
  return [data] { MemorySource{data}; };
}

TEST(Read, FillsInTheOrderAskedAndReusesTheBatch) {
  const MemorySource source(labelled());
  Batch batch;
  source.read(std::vector<std::int64_t>{2, 0, 2}, batch);
  EXPECT_EQ(batch.size, 3);
  EXPECT_THAT(batch.inputs, ElementsAre(20, 21, 0, 1, 20, 21));
  EXPECT_THAT(batch.labels, ElementsAre(1, 2, 1));
  EXPECT_THAT(batch.targets, IsEmpty());
  const float* const memory = batch.inputs.data();
  source.read(std::vector<std::int64_t>{1}, batch);
  EXPECT_EQ(batch.size, 1);
  EXPECT_THAT(batch.inputs, ElementsAre(10, 11));
  EXPECT_THAT(batch.labels, ElementsAre(0));
  EXPECT_EQ(batch.inputs.data(), memory);
}

TEST(Read, TargetsTakeThePlaceOfLabels) {
  Batch batch;
  MemorySource(labelled()).read(std::vector<std::int64_t>{0}, batch);
  MemorySource(real_valued()).read(std::vector<std::int64_t>{1, 0}, batch);
  EXPECT_THAT(batch.inputs, ElementsAre(6, 5));
  EXPECT_THAT(batch.labels, IsEmpty());
  EXPECT_THAT(batch.targets, ElementsAre(60, 61, 50, 51));
}

TEST(Read, AnIndexOutsideIsABug) {
  const MemorySource source(labelled());
  Batch batch;
  for (const std::int64_t index : {std::int64_t{-1}, std::int64_t{3}, std::numeric_limits<std::int64_t>::max()})
    EXPECT_THAT(
        [&] {
          source.read(std::vector<std::int64_t>{0, index}, batch);
        },
        ThrowsMessage<InternalError>(HasSubstr(fmt::format("example {} was asked of a dataset of 3", index))));
}

TEST(Read, IsSafeFromSeveralThreads) {
  const auto source = make_moons({}, Split::train);
  std::vector<std::int64_t> all(500);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  Batch expected;
  source->read(all, expected);
  std::vector<Batch> batches(4);
  std::vector<std::thread> threads;
  for (Batch& batch : batches)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) source->read(all, batch);
    });
  for (std::thread& thread : threads) thread.join();
  for (const Batch& batch : batches) {
    EXPECT_EQ(batch.inputs, expected.inputs);
    EXPECT_EQ(batch.labels, expected.labels);
  }
}

TEST(Read, ASourceWithBothLabelsAndTargetsIsABug) {
  struct Confused : DataSource {
    Confused() { size_ = 1, spec_.input_shape = {1}, spec_.classes = 2, spec_.target_size = 1; }
    void fill(std::span<const std::int64_t>, Batch&) const override {}
  };
  Batch batch;
  EXPECT_THROW(Confused().read(std::vector<std::int64_t>{0}, batch), InternalError);
}

TEST(Normalization, IsPerChannelAndRoundedOnce) {
  const Normalization normalization{{0.5, 0.25}, {0.5, 0.125}};
  EXPECT_EQ(normalization.apply(0, 0), -1.0F);
  EXPECT_EQ(normalization.apply(255, 0), 1.0F);
  EXPECT_EQ(normalization.apply(255, 1), 6.0F);
  EXPECT_EQ(normalization.apply(51, 1), static_cast<float>((0.2 - 0.25) / 0.125));
  EXPECT_EQ(Normalization{}.apply(255, 0), 1.0F);
}

TEST(MemorySource, RefusesArraysThatDoNotFit) {
  const auto refused = [](MemoryData data, const std::string& message) {
    EXPECT_THAT(making(std::move(data)), ThrowsMessage<UserError>(HasSubstr(message)));
  };
  MemoryData data = labelled();
  data.inputs.pop_back();
  refused(data, "5 input values are no whole number of examples of 2");
  data = labelled();
  data.labels.pop_back();
  refused(data, "2 labels were given for 3 examples");
  data = labelled();
  data.targets = {1, 2, 3};
  refused(data, "3 target values were given for 3 examples of 0");
  data = labelled();
  data.spec.target_size = 1;
  refused(data, "either class labels or real-valued targets");
  data = labelled();
  data.spec.classes = 0;
  refused(data, "3 labels were given for 3 examples of 0 classes");
  data = labelled();
  data.spec.input_shape = {};
  refused(data, "at least one dimension");
  data = labelled();
  data.inputs.clear();
  data.labels.clear();
  refused(data, "no whole number of examples");
  data = labelled();
  data.spec.class_names = {"a", "b"};
  refused(data, "2 class names were given for 3 classes");
  data = labelled();
  data.spec.normalization = {{0.1}, {0.2}};
  refused(data, "one mean and one deviation per channel");
}

TEST(MemorySource, NamesTheExampleWithABadValue) {
  MemoryData data = labelled();
  data.inputs[3] = std::nanf("");
  EXPECT_THAT(making(data), ThrowsMessage<DataError>(HasSubstr("an input of example 1 is nan")));
  data = real_valued();
  data.targets[2] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(making(data), ThrowsMessage<DataError>(HasSubstr("a target of example 1 is inf")));
  for (const std::int64_t label : {-1, 3}) {
    data = labelled();
    data.labels[2] = label;
    EXPECT_THAT(making(data),
                ThrowsMessage<DataError>(HasSubstr(fmt::format("label of example 2 is {}, outside 0 to 2", label))));
  }
}

TEST(Digest, DependsOnContentAndKindOnly) {
  const std::string digest = MemorySource(labelled()).digest();
  EXPECT_THAT(digest, SizeIs(32));
  EXPECT_EQ(digest.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(MemorySource(labelled()).digest(), digest);
  MemoryData data = labelled();
  data.spec.normalization = {{0.1, 0.1}, {0.2, 0.2}};
  data.spec.class_names = {"a", "b", "c"};
  EXPECT_EQ(MemorySource(data).digest(), digest);

  for (std::size_t i = 0; i < 6; ++i) {
    data = labelled();
    data.inputs[i] = std::nextafter(data.inputs[i], 100.0F);
    EXPECT_NE(MemorySource(data).digest(), digest);
  }
  for (std::size_t i = 0; i < 3; ++i) {
    data = labelled();
    data.labels[i] = (data.labels[i] + 1) % 3;
    EXPECT_NE(MemorySource(data).digest(), digest);
  }
  data = labelled();
  data.spec.classes = 4;
  EXPECT_NE(MemorySource(data).digest(), digest);
  data = labelled();
  data.spec.input_shape = {2, 1};
  EXPECT_NE(MemorySource(data).digest(), digest);
}

}  // namespace
}  // namespace credence
