#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "credence/data/image_store.h"
#include "credence/data/split.h"

namespace credence {

/// A folder with one folder of images a class, sorted names being labels 0, 1, ...: DIR/train for the training split
/// and DIR/test, or DIR/val, for the test split where such folders exist, otherwise DIR's own class folders for
/// whatever is asked. Labels of the test split are those of the training split where both exist: the classes must be
/// the same. Every regular file in a class folder (and in folders below) is an image, whatever its name; names that
/// begin with a dot are not seen. DataError where there are no classes, no images in one, or others than in training.
class FolderStore final : public ImageStore {
 public:
  FolderStore(const std::filesystem::path& directory, Split split);

  std::string name(std::int64_t record) const override;
  std::string path(std::int64_t record) const override;
  StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const override;
  /// Paths and lengths; not the content, which would be read for it.
  void add_to(ContentDigest& digest) const override;
  Digest fingerprint(std::int64_t record) const override;

 private:
  void add_class(std::int64_t label);

  std::filesystem::path root_;  // that holds the class folders
  std::string text_;            // all paths below root_, one after the other
  std::vector<std::size_t> ends_;
  std::vector<std::int64_t> lengths_;
};

/// All of a file, into memory that is reused. DataError where it is no regular file or too large for an image,
/// StorageError where it cannot be read.
void read_whole_file(const std::filesystem::path& file, std::vector<std::uint8_t>& bytes);

}  // namespace credence
