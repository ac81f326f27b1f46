#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "credence/base/dtype.h"
#include "credence/checkpoint/checkpoint.h"

namespace credence::checkpoints {

/// Name of the attribute that holds a dataset's digest.
inline constexpr const char* kDigestAttribute = "xxh3_128";
inline constexpr const char* kConfigName = "config";
inline constexpr const char* kFormatName = "credence checkpoint";

/// One dataset: what it is and where its bytes lie in the file.
struct StoredArray {
  std::string name;
  DType dtype = DType::uint8;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // from the start of the file; 0 where there are no bytes
  std::uint64_t bytes = 0;
  std::string digest;  // hexadecimal
};

/// Everything a checkpoint says except the values of its arrays. HDF5 is needed to make one, not to read by one.
struct Table {
  std::vector<StoredArray> arrays;                                     // sorted by name
  StoredArray config;                                                  // as bytes
  std::map<std::string, std::map<std::string, Attribute>> attributes;  // by path, "" for the file; digests left out
};

/// A byte form with lengths before contents. Equal tables have equal bytes, NaN included.
std::string serialize(const Table& table);
/// DataError where the bytes are not what serialize() makes: they may come from a process that a hostile file took
/// over.
Table parse_table(const std::filesystem::path& file, std::string_view bytes);

/// Whether an array may have this name and shape (FORMAT.md, "Names"); else a sentence's end that says why not.
std::string reason_against(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape);
/// As above for the path of a group, and for the name of an attribute.
std::string reason_against_path(const std::string& path);
std::string reason_against_attribute(const std::string& name);
/// The same for the attributes of the file: all there, each of its type.
std::string reason_against_file_attributes(const std::map<std::string, Attribute>& attributes);

/// Bytes of such an array, or nothing where the number does not fit 63 bits.
std::optional<std::uint64_t> bytes_of(DType dtype, const std::vector<std::int64_t>& shape);

/// DataError unless the table is one that the format allows and all bytes lie inside the file and apart.
void check_table(const std::filesystem::path& file, const Table& table, std::uint64_t file_bytes);

}  // namespace credence::checkpoints
