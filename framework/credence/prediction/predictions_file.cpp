#include "credence/prediction/predictions_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "credence/base/hdf5.h"
#include "credence/prediction/calibration.h"

namespace credence {
namespace {

constexpr std::size_t kImages = 16;  // of each kind

/// A new HDF5 file; paths are from its root, groups are made as needed.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& file) : context_{file.string()} {
    const hdf5::Handle access = hdf5::file_access(context_);
    file_ = hdf5::open(context_, "H5Fcreate", "file", H5Fclose,
                       [&] { return H5Fcreate(context_.file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()); });
    links_ = hdf5::open(context_, "H5Pcreate", "links", H5Pclose, [] { return H5Pcreate(H5P_LINK_CREATE); });
    hdf5::check(context_, "H5Pset_create_intermediate_group", "links",
                [&] { return H5Pset_create_intermediate_group(links_.get(), 1); });
  }

  template <class T>
  void dataset(const std::string& path, const std::vector<T>& values, const std::vector<std::int64_t>& shape) {
    const hdf5::Handle space = hdf5::make_space(context_, path, shape);
    const hid_t type = hdf5::type_of(dtype_of<T>);
    hdf5::Handle dataset = hdf5::open(context_, "H5Dcreate2", path, H5Dclose, [&] {
      return H5Dcreate2(file_.get(), path.c_str(), type, space.get(), links_.get(), H5P_DEFAULT, H5P_DEFAULT);
    });
    hdf5::check(context_, "H5Dwrite", path,
                [&] { return H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()); });
    dataset.close(context_, path);
  }
  template <class T>
  void dataset(const std::string& path, const std::vector<T>& values) {
    dataset(path, values, {static_cast<std::int64_t>(values.size())});
  }

  /// Attributes of a new group, or of the root ("/").
  void attributes(const std::string& group, const std::vector<std::pair<std::string, hdf5::Scalar>>& values) {
    hdf5::Handle object =
        group == "/"
            ? hdf5::open(context_, "H5Gopen2", group, H5Gclose, [&] { return H5Gopen2(file_.get(), "/", H5P_DEFAULT); })
            : hdf5::open(context_, "H5Gcreate2", group, H5Gclose, [&] {
                return H5Gcreate2(file_.get(), group.c_str(), links_.get(), H5P_DEFAULT, H5P_DEFAULT);
              });
    for (const auto& [name, value] : values) hdf5::write_attribute(context_, object.get(), name, value);
    object.close(context_, group);
  }

  void close() {
    links_.close(context_, "links");
    file_.close(context_, "file");
  }

 private:
  hdf5::Context context_;
  hdf5::Handle file_, links_;
};

std::vector<std::pair<std::string, hdf5::Scalar>> attributes_of(const Metrics& metrics) {
  std::vector<std::pair<std::string, hdf5::Scalar>> result = {{"samples", std::int64_t{metrics.samples}}};
  for (const auto& [name, value] : metrics.defined()) result.emplace_back(name, value);
  return result;
}

void write_elbo(NewFile& file, const ElboEstimate& elbo) {
  std::vector<std::pair<std::string, hdf5::Scalar>> values = {
      {"expected_log_likelihood", elbo.expected_log_likelihood}};
  if (elbo.standard_error) values.emplace_back("elbo_standard_error", *elbo.standard_error);
  if (elbo.kl) values.emplace_back("kl", *elbo.kl);
  if (elbo.elbo) values.emplace_back("elbo", *elbo.elbo);
  file.attributes("elbo", values);
}

void write_classes(NewFile& file, const ClassPredictions& classes) {
  std::vector<std::uint8_t> correct;
  for (std::int64_t i = 0; i < classes.size(); ++i) correct.push_back(classes.correct(i) ? 1 : 0);
  file.dataset("labels", classes.labels);
  file.dataset("predicted", classes.predicted);
  file.dataset("correct", correct);
  file.dataset("confidence", classes.confidence);
  if (!classes.label_rank.empty()) file.dataset("label_rank", classes.label_rank);
  file.dataset("risk", risk_coverage(classes).risk);
  file.dataset("log_likelihood", classes.log_likelihood);
  file.dataset("brier", classes.brier);
  file.dataset("entropy", classes.entropy);
  file.dataset("mutual_information", classes.mutual_information);
  if (!classes.probabilities.empty()) {
    file.dataset("probabilities", classes.probabilities, {classes.size(), classes.classes});
  }
}

void write_reliability(NewFile& file, const Reliability& reliability) {
  file.dataset("reliability/count", reliability.count);
  file.dataset("reliability/confidence", reliability.confidence);
  file.dataset("reliability/accuracy", reliability.accuracy);
}

/// The images as they were before normalisation.
void write_images(NewFile& file, const std::string& group, const std::vector<std::int64_t>& indices,
                  const DataSource& source) {
  Batch batch;
  source.read(indices, batch);
  normalize(source.spec(), batch);
  const std::vector<std::int64_t>& image = source.spec().input_shape;
  const Normalization& normalization = source.spec().normalization;
  const auto channels = static_cast<std::size_t>(image[0]);
  const auto pixels = static_cast<std::size_t>(image[1] * image[2]);
  for (std::size_t i = 0; i < batch.inputs.size() && !normalization.empty(); ++i) {
    const std::size_t channel = i / pixels % channels;
    batch.inputs[i] =
        static_cast<float>(batch.inputs[i] * normalization.deviation[channel] + normalization.mean[channel]);
  }
  std::vector<std::int64_t> shape = {batch.size};
  shape.insert(shape.end(), image.begin(), image.end());
  file.dataset(group + "/index", indices);
  file.dataset(group + "/pixels", batch.inputs, shape);
}

void write_extreme_images(NewFile& file, const ClassPredictions& classes, const DataSource& source) {
  std::vector<std::int64_t> by_entropy(classes.entropy.size());
  std::iota(by_entropy.begin(), by_entropy.end(), 0);
  std::stable_sort(by_entropy.begin(), by_entropy.end(), [&](std::int64_t a, std::int64_t b) {
    return classes.entropy[static_cast<std::size_t>(a)] < classes.entropy[static_cast<std::size_t>(b)];
  });
  const auto count = static_cast<std::ptrdiff_t>(std::min(kImages, by_entropy.size()));
  write_images(file, "inputs/most_sure", {by_entropy.begin(), by_entropy.begin() + count}, source);
  write_images(file, "inputs/least_sure", {by_entropy.rbegin(), by_entropy.rbegin() + count}, source);
}

void write_surface(NewFile& file, const Surface& surface, const DataSource& source) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(surface.y.size()),
                                           static_cast<std::int64_t>(surface.x.size())};
  file.dataset("surface/x", surface.x);
  file.dataset("surface/y", surface.y);
  file.dataset("surface/probability", surface.probability, shape);
  file.dataset("surface/label_stddev", surface.label_stddev, shape);
  file.dataset("surface/probability_stddev", surface.probability_stddev, shape);
  std::vector<std::int64_t> all(static_cast<std::size_t>(source.size()));
  std::iota(all.begin(), all.end(), 0);
  Batch batch;
  source.read(all, batch);
  file.dataset("surface/points", batch.inputs, {batch.size, 2});
}

void write_regression(NewFile& file, const RegressionPredictions& regression) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(regression.log_likelihood.size()),
                                           regression.columns};
  file.dataset("regression/targets", regression.targets, shape);
  file.dataset("regression/mean", regression.mean, shape);
  file.dataset("regression/scale", regression.scale, shape);
  file.dataset("regression/aleatoric_scale", regression.aleatoric_scale, shape);
  file.dataset("regression/epistemic_scale", regression.epistemic_scale, shape);
  file.dataset("regression/lower", regression.lower, shape);
  file.dataset("regression/upper", regression.upper, shape);
  file.dataset("regression/log_likelihood", regression.log_likelihood);
}

void write_generative(NewFile& file, const GenerativePredictions& generative) {
  file.dataset("generative/elbo", generative.elbo);
  file.dataset("generative/importance_bound", generative.importance);
  if (!generative.ood_importance.empty()) file.dataset("ood/importance_bound", generative.ood_importance);
  if (!generative.gallery) return;
  const Gallery& gallery = *generative.gallery;
  std::int64_t pixels = 1;
  for (const std::int64_t size : gallery.shape) pixels *= size;
  const auto write = [&](const char* name, const std::vector<float>& values) {
    std::vector<std::int64_t> shape = {static_cast<std::int64_t>(values.size()) / pixels};
    shape.insert(shape.end(), gallery.shape.begin(), gallery.shape.end());
    file.dataset(name, values, shape);
  };
  write("generative/inputs", gallery.inputs);
  write("generative/reconstructions", gallery.reconstructions);
  write("generative/samples", gallery.samples);
}

void write_all(NewFile& file, const Evaluation& evaluation, const DataSource& source) {
  auto attributes = attributes_of(evaluation.predictive);
  attributes.emplace_back("examples", evaluation.examples);
  if (evaluation.classes) attributes.emplace_back("classes", evaluation.classes->classes);
  if (const auto& names = source.spec().class_names; !names.empty()) {
    attributes.emplace_back("class_names", fmt::format("{}", fmt::join(names, "\n")));
  }
  file.attributes("/", attributes);
  file.attributes("mean", attributes_of(evaluation.mean));
  if (evaluation.elbo) write_elbo(file, *evaluation.elbo);
  if (evaluation.classes) {
    write_classes(file, *evaluation.classes);
    write_reliability(file, evaluation.reliability);
    if (source.spec().input_shape.size() == 3) write_extreme_images(file, *evaluation.classes, source);
  }
  if (!evaluation.ood_entropy.empty()) file.dataset("ood/entropy", evaluation.ood_entropy);
  if (evaluation.surface) write_surface(file, *evaluation.surface, source);
  if (evaluation.regression) write_regression(file, *evaluation.regression);
  if (evaluation.generative) write_generative(file, *evaluation.generative);
}

}  // namespace

void write_predictions(const std::filesystem::path& file, const Evaluation& evaluation, const DataSource& source) {
  ensure(source.size() == evaluation.examples, "predictions and data differ in the number of examples");
  std::filesystem::path partial = file;
  partial += ".partial";
  std::error_code error;
  try {
    NewFile written(partial);
    write_all(written, evaluation, source);
    written.close();
  } catch (...) {
    std::filesystem::remove(partial, error);
    throw;
  }
  std::filesystem::rename(partial, file, error);
  if (error) {
    const std::string cause = error.message();
    std::filesystem::remove(partial, error);
    throw StorageError(fmt::format("{}: cannot rename {}: {}", file.string(), partial.string(), cause));
  }
}

}  // namespace credence
