#pragma once

#include <filesystem>

#include "credence/data/image_store.h"
#include "credence/data/split.h"

namespace credence {

/// CIFAR in its binary version, 32 x 32 RGB, kept in memory. A record is its label (of CIFAR-100 the coarse one, which
/// is left out, then the fine one), then the planes of red, green and blue.
enum class Cifar : std::uint8_t { ten, hundred };

/// CIFAR-10: data_batch_1.bin to data_batch_5.bin and test_batch.bin;
/// CIFAR-100: train.bin and test.bin. Names of classes are read from batches.meta.txt or fine_label_names.txt where
/// present. DataError for a missing file, a length that is no whole number of records, a label out of range.
class CifarStore final : public ImageStore {
 public:
  CifarStore(const std::filesystem::path& directory, Cifar kind, Split split);

  std::string name(std::int64_t record) const override;
  std::string path(std::int64_t record) const override;
  StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const override;
  void add_to(ContentDigest& digest) const override;

 private:
  struct File {
    std::filesystem::path path;
    std::int64_t first;  // record
  };
  void add_file(const std::filesystem::path& path, int label_bytes);
  const File& file_of(std::int64_t record) const;

  std::vector<File> files_;
  std::vector<std::uint8_t> pixels_;  // [N, 32, 32, 3]
};

}  // namespace credence
