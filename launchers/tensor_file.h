#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "credence/checkpoint/checkpoint.h"

namespace credence {

/// What a file holds of a network: a checkpoint's posterior, or a state dict.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::filesystem::path& file() const = 0;
  /// Of parameters and floating-point buffers.
  virtual std::vector<std::string> names() const = 0;
  /// float64; undefined where the file has none of that name. DataError where it cannot be read or is not finite.
  virtual torch::Tensor mean(const std::string& parameter) const = 0;
  virtual torch::Tensor scale(const std::string& parameter) const = 0;
  virtual torch::Tensor buffer(const std::string& name) const = 0;
  /// What the tensors are read from, where it is one; null for a state dict.
  virtual const Checkpoint* checkpoint() const { return nullptr; }
};

/// A state dict (safetensors, or as torch.save writes it), a checkpoint, or the newest one in a run directory.
std::unique_ptr<TensorFile> open_tensor_file(const std::string& path);
std::unique_ptr<TensorFile> open_state_dict_tensors(const std::string& path);
std::unique_ptr<TensorFile> open_checkpoint_tensors(const std::string& path);
/// One array of a checkpoint, float64; undefined where there is none of that name.
torch::Tensor read_tensor(const Checkpoint& checkpoint, const std::string& name);

}  // namespace credence
