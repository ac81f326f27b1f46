#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace credence {

/// Tensors by name, as other programs store them. Reading runs nothing that a file says and trusts none of its numbers.
class StateDict {
 public:
  virtual ~StateDict() = default;

  const std::filesystem::path& file() const { return file_; }
  /// Of every tensor, whether or not its type can be read.
  const std::map<std::string, std::vector<std::int64_t>>& shapes() const { return shapes_; }
  /// A whole tensor, row-major, converted to double; exact but for integers beyond 2^53. DataError where the file has
  /// no such tensor, or one of a type that is not read.
  virtual std::vector<double> read_doubles(const std::string& name) const = 0;

 protected:
  explicit StateDict(std::filesystem::path file) : file_(std::move(file)) {}
  std::filesystem::path file_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
};

/// A safetensors file, or what torch.save made of a state dict, now or before PyTorch 1.6; known by its first bytes.
/// The dict may be the entry `state_dict` or `model` of another, as training scripts write it; a `module.` that all
/// names begin with (DataParallel) is left out. DataError names the file and what is wrong.
std::unique_ptr<StateDict> open_state_dict(const std::filesystem::path& file);
/// The same by the file's first bytes: not one of Credence's own checkpoints.
bool may_be_state_dict(const std::filesystem::path& file);

}  // namespace credence
