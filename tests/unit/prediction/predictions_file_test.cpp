#include "credence/prediction/predictions_file.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "credence/base/hdf5.h"
#include "credence/data/memory_source.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

/// Reads as anybody would, by the path.
template <class T>
std::pair<std::vector<T>, std::vector<std::int64_t>> read(const fs::path& path, const std::string& name) {
  const hdf5::Context context{path.string(), ExitCode::unusable_data};
  const hdf5::Handle file = hdf5::open(context, "H5Fopen", name, H5Fclose,
                                       [&] { return H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT); });
  const hdf5::Handle dataset =
      hdf5::open(context, "H5Dopen2", name, H5Dclose, [&] { return H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT); });
  const hdf5::Handle space =
      hdf5::open(context, "H5Dget_space", name, H5Sclose, [&] { return H5Dget_space(dataset.get()); });
  const auto shape = hdf5::shape_of(context, name, space.get());
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  std::vector<T> values(static_cast<std::size_t>(count));
  hdf5::check(context, "H5Dread", name, [&] {
    return H5Dread(dataset.get(), hdf5::type_of(dtype_of<T>), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  });
  return {values, shape};
}

hdf5::Scalar attribute(const fs::path& path, const std::string& group, const std::string& name) {
  const hdf5::Context context{path.string(), ExitCode::unusable_data};
  const hdf5::Handle file = hdf5::open(context, "H5Fopen", name, H5Fclose,
                                       [&] { return H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT); });
  const hdf5::Handle object = hdf5::open(context, "H5Gopen2", group, H5Gclose,
                                         [&] { return H5Gopen2(file.get(), group.c_str(), H5P_DEFAULT); });
  return hdf5::read_attribute(context, object.get(), name);
}

class PredictionsFile : public testing::Test {
 protected:
  PredictionsFile() { fs::create_directories(directory_); }
  ~PredictionsFile() override { fs::remove_all(directory_); }

  fs::path directory_ = fs::path(testing::TempDir()) / fmt::format("predictions-{}", ::getpid());
  fs::path file_ = directory_ / "predictions.h5";
};

/// 20 images of one channel, 1x2 pixels: image i holds i / 19 and 0. The entropy of image i is (7 i mod 20) / 10.
MemorySource images() {
  MemoryData data;
  data.spec.input_shape = {1, 1, 2};
  data.spec.classes = 2;
  data.spec.class_names = {"shirt", "ankle boot"};
  data.spec.normalization = {{0.25}, {0.5}};
  for (int i = 0; i < 20; ++i) {
    data.inputs.push_back(data.spec.normalization.apply(255.0 * i / 19.0, 0));
    data.inputs.push_back(data.spec.normalization.apply(0.0, 0));
    data.labels.push_back(i % 2);
  }
  return MemorySource(data);
}

Evaluation evaluation_of_images() {
  Evaluation evaluation;
  evaluation.examples = 20;
  evaluation.predictive.samples = 32;
  evaluation.predictive.accuracy = 0.75;
  evaluation.mean.samples = 1;
  evaluation.mean.accuracy = 0.5;
  evaluation.elbo = ElboEstimate{-12.0, 0.5, 3.0, -15.0};
  ClassPredictions& classes = evaluation.classes.emplace();
  classes.classes = 2;
  for (int i = 0; i < 20; ++i) {
    classes.labels.push_back(i % 2);
    classes.predicted.push_back(0);
    classes.entropy.push_back(7 * i % 20 / 10.0);
    classes.confidence.push_back(0.5 + i / 40.0);
    classes.probabilities.insert(classes.probabilities.end(), {0.5 + i / 40.0, 0.5 - i / 40.0});
  }
  classes.log_likelihood = classes.brier = classes.mutual_information = classes.entropy;
  evaluation.reliability = {{1, 2}, {0.5, 0.75}, {0.25, 1.0}};
  evaluation.ood_entropy = {1.0, 2.0, 3.0};
  return evaluation;
}

TEST_F(PredictionsFile, HoldsWhatFiguresNeed) {
  write_predictions(file_, evaluation_of_images(), images());
  EXPECT_EQ(attribute(file_, "/", "accuracy"), hdf5::Scalar(0.75));
  EXPECT_EQ(attribute(file_, "/", "samples"), hdf5::Scalar(std::int64_t{32}));
  EXPECT_EQ(attribute(file_, "/", "class_names"), hdf5::Scalar(std::string("shirt\nankle boot")));
  EXPECT_EQ(attribute(file_, "/mean", "accuracy"), hdf5::Scalar(0.5));
  EXPECT_EQ(attribute(file_, "/elbo", "elbo"), hdf5::Scalar(-15.0));
  EXPECT_EQ(attribute(file_, "/elbo", "elbo_standard_error"), hdf5::Scalar(0.5));
  const auto [probabilities, shape] = read<double>(file_, "probabilities");
  EXPECT_THAT(shape, ElementsAre(20, 2));
  EXPECT_EQ(probabilities[2], 0.525);
  EXPECT_THAT(read<std::int64_t>(file_, "reliability/count").first, ElementsAre(1, 2));
  EXPECT_THAT(read<double>(file_, "ood/entropy").first, ElementsAre(1.0, 2.0, 3.0));
  EXPECT_EQ(read<std::uint8_t>(file_, "correct").first[1], 0);
  EXPECT_EQ(read<std::uint8_t>(file_, "correct").first[2], 1);
}

TEST_F(PredictionsFile, HoldsTheExtremeImagesAsTheyWereBeforeNormalisation) {
  write_predictions(file_, evaluation_of_images(), images());
  const auto surest = read<std::int64_t>(file_, "inputs/most_sure/index").first;
  const auto [pixels, shape] = read<float>(file_, "inputs/most_sure/pixels");
  ASSERT_EQ(surest.size(), 16U);
  EXPECT_EQ(surest[0], 0);
  EXPECT_EQ(surest[1], 3);                                                       // 7 * 3 = 1 mod 20
  EXPECT_EQ(read<std::int64_t>(file_, "inputs/least_sure/index").first[0], 17);  // 7 * 17 = 19 mod 20
  EXPECT_THAT(shape, ElementsAre(16, 1, 1, 2));
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(pixels[2 * i], static_cast<double>(surest[i]) / 19.0, 1e-7);
    EXPECT_NEAR(pixels[2 * i + 1], 0.0, 1e-7);
  }
}

TEST_F(PredictionsFile, ReplacesAnOlderOneAndLeavesNothingBeside) {
  Evaluation evaluation = evaluation_of_images();
  write_predictions(file_, evaluation, images());
  evaluation.predictive.accuracy = 0.875;
  write_predictions(file_, evaluation, images());
  EXPECT_EQ(attribute(file_, "/", "accuracy"), hdf5::Scalar(0.875));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), {}), 1);
}

TEST_F(PredictionsFile, NamesWhatCannotBeWritten) {
  const fs::path missing = directory_ / "missing" / "predictions.h5";
  EXPECT_THAT([&] { write_predictions(missing, evaluation_of_images(), images()); },
              testing::ThrowsMessage<StorageError>(HasSubstr(missing.string())));
  fs::create_directories(file_ / "in the way");
  EXPECT_THAT([&] { write_predictions(file_, evaluation_of_images(), images()); },
              testing::ThrowsMessage<StorageError>(HasSubstr("cannot rename")));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), {}), 1);
}

TEST_F(PredictionsFile, HoldsSurfacesWithTheirPointsAndRegressions) {
  MemoryData data;
  data.spec.input_shape = {2};
  data.spec.target_size = 1;
  data.inputs = {1, 2, 3, 4};
  data.targets = {5, 6};
  Evaluation evaluation;
  evaluation.examples = 2;
  evaluation.surface = Surface{{0, 1, 2}, {10, 11}, {1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1}};
  evaluation.regression =
      RegressionPredictions{1, {5, 6}, {5.5, 6.5}, {1, 1}, {-1, -2}, {0.6, 0.6}, {0.8, 0.8}, {3, 4}, {7, 8}};
  write_predictions(file_, evaluation, MemorySource(data));
  EXPECT_THAT(read<double>(file_, "surface/probability_stddev").second, ElementsAre(2, 3));
  EXPECT_THAT(read<float>(file_, "surface/points").first, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(read<double>(file_, "regression/mean").first, ElementsAre(5.5, 6.5));
  EXPECT_THAT(read<double>(file_, "regression/mean").second, ElementsAre(2, 1));
  EXPECT_THAT(read<double>(file_, "regression/aleatoric_scale").first, ElementsAre(0.6, 0.6));
  EXPECT_THAT(read<double>(file_, "regression/epistemic_scale").first, ElementsAre(0.8, 0.8));
  EXPECT_THAT(read<double>(file_, "regression/lower").first, ElementsAre(3, 4));
  EXPECT_THAT(read<double>(file_, "regression/upper").first, ElementsAre(7, 8));
}

}  // namespace
}  // namespace credence
