#include "tensor_file.h"

#include <fmt/core.h>

#include <utility>

#include "assembly.h"
#include "credence/base/errors.h"
#include "credence/checkpoint/state_dict.h"

namespace credence {
namespace {

/// DataError where a number of the tensor is none.
torch::Tensor finite(const torch::Tensor& tensor, const std::string& name, const std::filesystem::path& file) {
  if (tensor.defined() && !torch::isfinite(tensor).all().item<bool>()) {
    throw DataError(fmt::format(
        "{}: the tensor {} holds NaN or infinity, from which nothing can be trained; take a file from before its "
        "training diverged",
        file.string(), name));
  }
  return tensor;
}

class CheckpointTensors final : public TensorFile {
 public:
  explicit CheckpointTensors(std::unique_ptr<Checkpoint> checkpoint) : checkpoint_(std::move(checkpoint)) {}

  const std::filesystem::path& file() const override { return checkpoint_->file(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const ArrayView& array : checkpoint_->arrays()) {
      const std::string& name = array.name;
      if (name.starts_with("posterior/") && name.ends_with("/mean")) names.push_back(name.substr(10, name.size() - 15));
      if (name.starts_with("buffers/") && array.dtype != DType::int64) names.push_back(name.substr(8));
    }
    return names;
  }
  torch::Tensor mean(const std::string& parameter) const override { return read("posterior/" + parameter + "/mean"); }
  torch::Tensor scale(const std::string& parameter) const override { return read("posterior/" + parameter + "/scale"); }
  torch::Tensor buffer(const std::string& name) const override { return read("buffers/" + name); }
  const Checkpoint* checkpoint() const override { return checkpoint_.get(); }

 private:
  torch::Tensor read(const std::string& name) const { return finite(read_tensor(*checkpoint_, name), name, file()); }

  std::unique_ptr<Checkpoint> checkpoint_;
};

class StateDictTensors final : public TensorFile {
 public:
  explicit StateDictTensors(const std::string& path) : dict_(open_state_dict(path)) {}

  const std::filesystem::path& file() const override { return dict_->file(); }
  /// Without batch norm's counters, and without what `credence export` writes beside a tensor: "fc.weight.scale".
  std::vector<std::string> names() const override {
    const auto& shapes = dict_->shapes();
    std::vector<std::string> names;
    for (const auto& [name, shape] : shapes) {
      bool counts = !name.ends_with("num_batches_tracked");
      for (auto dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
        counts = counts && !shapes.contains(name.substr(0, dot));
      }
      if (counts) names.push_back(name);
    }
    return names;
  }
  torch::Tensor mean(const std::string& parameter) const override { return read(parameter); }
  torch::Tensor scale(const std::string& parameter) const override { return read(parameter + ".scale"); }
  torch::Tensor buffer(const std::string& name) const override { return read(name); }

 private:
  torch::Tensor read(const std::string& name) const {
    const auto shape = dict_->shapes().find(name);
    if (shape == dict_->shapes().end()) return {};
    return finite(torch::tensor(dict_->read_doubles(name), torch::kFloat64).view(shape->second), name, file());
  }

  std::unique_ptr<StateDict> dict_;
};

}  // namespace

std::unique_ptr<TensorFile> open_state_dict_tensors(const std::string& path) {
  return std::make_unique<StateDictTensors>(path);
}

std::unique_ptr<TensorFile> open_checkpoint_tensors(const std::string& path) {
  return std::make_unique<CheckpointTensors>(std::make_unique<Checkpoint>(path));
}

torch::Tensor read_tensor(const Checkpoint& checkpoint, const std::string& name) {
  for (const ArrayView& array : checkpoint.arrays()) {
    if (array.name == name) return torch::tensor(checkpoint.read_doubles(name), torch::kFloat64).view(array.shape);
  }
  return {};
}

std::unique_ptr<TensorFile> open_tensor_file(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    std::unique_ptr<Checkpoint> newest = newest_checkpoint(path);
    require(newest != nullptr, "{}: that directory holds no checkpoint", path);
    return std::make_unique<CheckpointTensors>(std::move(newest));
  }
  return may_be_state_dict(path) ? open_state_dict_tensors(path) : open_checkpoint_tensors(path);
}

}  // namespace credence
