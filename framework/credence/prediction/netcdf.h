#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "credence/base/dtype.h"

namespace credence {

/// A new netCDF-4 file, written as HDF5: a dimension is a dimension scale, and every one here is a coordinate variable
/// that counts from 0 ("NetCDF-4 File Format Specification" of Unidata's netCDF User's Guide, appendix C). Paths are
/// "group/name". Equal content gives equal files. StorageError names file and call. Not thread safe.
class NetcdfFile {
 public:
  /// Under a temporary name until publish(); without it nothing remains.
  explicit NetcdfFile(const std::filesystem::path& file);
  ~NetcdfFile();
  NetcdfFile(const NetcdfFile&) = delete;
  NetcdfFile& operator=(const NetcdfFile&) = delete;

  using Attributes = std::vector<std::pair<std::string, std::variant<std::int64_t, double, std::string>>>;
  void add_group(const std::string& group, const Attributes& attributes);
  /// Variable `path` of one dimension, itself, with the values 0 to size - 1.
  void add_dimension(const std::string& path, std::int64_t size);
  /// `dimensions`: names in the variable's own group, outermost first.
  void add_variable(const std::string& path, DType dtype, const std::vector<std::string>& dimensions);

  /// All of a variable, row-major, of its type.
  void write(const std::string& path, const void* data);
  /// What has the index `draw` in the second dimension; the first has one index.
  void write_draw(const std::string& path, std::int64_t draw, const void* data);

  void publish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace credence
