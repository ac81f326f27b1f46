#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "credence/base/digest.h"
#include "credence/data/data_source.h"
#include "credence/data/image.h"

namespace credence {

// A packed dataset is one HDF5 file, which h5py opens:
//
//   /bytes        uint8 [total]    all images, one after the other
//   /offset       int64 [N]        where a record's bytes begin in /bytes, /length int64 [N] how many
//   /label        int64 [N]        /split uint8 [N]: 0 training, 1 test, 2 both
//   /encoding     uint8 [N]        0 pixels [height, width, channels], 1 JPEG, 2 PNG
//   /height       int64 [N]        of the upright image, /width int64 [N]
//   /digest       uint8 [N, 16]    XXH3-128 of a record's bytes, canonical (big-endian)
//   /class_names  uint8            UTF-8, each name followed by a zero byte; empty where classes have no names
//   /paths        uint8            the records' paths in the dataset they came from, likewise
//
// Its attributes are format, format_version, examples, classes, channels, and job: 32 hexadecimal digits, the digest of
// what was packed (labels, paths and lengths, or content) and how, by which the same command knows that it is done.
//
// The 512-byte user block before it says where in the file each of these lies, what the digest of all but /bytes is and
// what the job, so reading needs no HDF5: nothing in a damaged or hostile file reaches HDF5's parser, and no lock of
// HDF5 is taken.

inline constexpr std::size_t kPackUserBlockBytes = 512;
inline constexpr std::uint32_t kPackVersion = 1;
/// Order of the tables in the user block and in their digest.
inline constexpr std::array kPackTables = {"bytes",  "offset", "length", "label",       "split", "encoding",
                                           "height", "width",  "digest", "class_names", "paths"};

enum class PackSplit : std::uint8_t { train = 0, test = 1, both = 2 };

/// Where a table lies in the file.
struct PackExtent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct PackHeader {
  std::uint64_t file_bytes = 0;
  std::uint64_t records = 0;
  std::uint64_t classes = 0;
  std::uint32_t channels = 3;
  ImageSize common_size;  // zeros where sizes differ
  Normalization normalization;
  std::array<PackExtent, kPackTables.size()> extents{};
  Digest tables{};  // of all tables but the first
  Digest job{};     // zeros in files of before it was recorded
};

using PackUserBlock = std::array<std::byte, kPackUserBlockBytes>;
PackUserBlock encode(const PackHeader& header);
/// DataError, without the file's name: no packed dataset, damaged, of a newer format, or with extents outside the file.
PackHeader decode_pack_header(const PackUserBlock& block);

/// The tables beside /bytes, in memory.
struct PackTables {
  std::vector<std::int64_t> offset;
  std::vector<std::int64_t> length;
  std::vector<std::int64_t> label;
  std::vector<std::uint8_t> split;
  std::vector<std::uint8_t> encoding;
  std::vector<std::int64_t> height;
  std::vector<std::int64_t> width;
  std::vector<std::uint8_t> digest;  // 16 a record
  std::vector<std::uint8_t> class_names;
  std::vector<std::uint8_t> paths;

  std::size_t records() const { return offset.size(); }
  /// Their bytes in the order of kPackTables, from 1 on.
  std::array<std::span<const std::byte>, kPackTables.size()> views() const;
  Digest combined_digest() const;
  /// Of all images, of which there is one at least; zeros where sizes differ.
  ImageSize common_size() const;
};

}  // namespace credence
