#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "credence/checkpoint/element_type.h"
#include "credence/checkpoint/pickle.h"

namespace credence::checkpoints {

/// Memory that tensors of a torch.save file are views of.
struct TorchStorage {
  std::string key;
  ElementType type = ElementType::f32;
  std::uint64_t element_bytes = 4;
  std::uint64_t elements = 0;

  std::uint64_t bytes() const { return elements * element_bytes; }  // parse_storage() has seen to it that this fits
};

/// A tensor as its pickle describes it: every index that it reaches lies in the storage, none twice.
struct TorchTensor {
  TorchStorage storage;
  std::uint64_t offset = 0;  // elements
  std::vector<std::int64_t> shape, stride;
  std::int64_t count = 1;

  bool is_contiguous() const;
  /// Row-major, of the storage's bytes.
  std::vector<double> read(const std::vector<std::byte>& storage_bytes) const;
};

/// The tensors of the state dict in a pickle's root, by name: see open_state_dict(). DataError.
std::map<std::string, TorchTensor> find_tensors(const std::filesystem::path& file, const PickleValue& root);

}  // namespace credence::checkpoints
