#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/data/image_store.h"
#include "credence/data/split.h"

namespace credence {

/// Images and labels in the idx format of MNIST: big-endian header, then one byte a pixel or label.
struct IdxFiles {
  std::filesystem::path images;  // magic 0x00000803, [N, height, width]
  std::filesystem::path labels;  // magic 0x00000801, [N]; empty: images without labels, to predict from
  std::int64_t classes = 10;
  std::vector<std::string> class_names;  // empty: unnamed
  Normalization normalization;           // one channel
  bool has_other_split = false;          // beside these
};

/// The files of one split in a folder: {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, plain before .gz; a dot
/// is accepted in place of the second dash. DataError for a missing one names it and ends with `advice`.
IdxFiles find_idx_files(const std::filesystem::path& directory, Split split, const std::string& advice);

/// The whole set, kept as bytes, images [1, height, width]. DataError for whatever is wrong with the files.
class IdxSource final : public DataSource {
 public:
  explicit IdxSource(const IdxFiles& files);

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override;

  std::vector<std::uint8_t> images_;
  std::vector<std::uint8_t> labels_;
  std::vector<float> value_of_pixel_;  // [256]
};

/// The same as images that can be packed, or brought to another size; of three channels where they are to stand beside
/// coloured ones, all alike.
class IdxStore final : public ImageStore {
 public:
  explicit IdxStore(const IdxFiles& files, int channels = 1);

  std::string name(std::int64_t record) const override;
  std::string path(std::int64_t record) const override;
  StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const override;
  void add_to(ContentDigest& digest) const override;

 private:
  std::filesystem::path file_;
  std::vector<std::uint8_t> images_;  // [N, height, width]
};

}  // namespace credence
