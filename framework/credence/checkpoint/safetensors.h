#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "credence/base/array.h"
#include "credence/checkpoint/element_type.h"

namespace credence {

/// A state dict in the safetensors format (github.com/huggingface/safetensors, "Format"): eight bytes of length, a
/// header of JSON, then the tensors' bytes without a gap. Construction trusts nothing: the header's length, every name,
/// type, shape and offset is checked against the file before anything is allocated by it. DataError names the file and
/// what is wrong.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  struct Tensor {
    ElementType type = ElementType::f32;
    std::vector<std::int64_t> shape;
    std::int64_t count = 1;
  };
  const std::filesystem::path& file() const;
  const std::map<std::string, Tensor>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;

  /// A whole tensor, converted to double; exact but for integers beyond 2^53. DataError where the file has no such
  /// tensor, or one of type `other`.
  std::vector<double> read_doubles(const std::string& name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes float32, float64 and int64 arrays under their names: temporary name, sync, rename. Equal content gives equal
/// bytes. StorageError; UserError where two arrays have one name.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, std::string>& metadata,
                       std::span<const ArrayView> arrays);

}  // namespace credence
