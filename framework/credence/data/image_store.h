#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "credence/base/digest.h"
#include "credence/data/digest.h"
#include "credence/data/image.h"

namespace credence {

/// An image as it is kept. Pixels are [height, width, channels] without gaps; what is encoded tells its size itself.
struct StoredImage {
  Encoding encoding = Encoding::raw;
  ImageSize size;  // of pixels
  std::span<const std::uint8_t> bytes;
};

/// What is wrong with a record: errors of a record's file begin with the name that messages put before them.
inline std::string without_name(const std::string& why, const std::string& name) {
  return why.starts_with(name + ": ") ? why.substr(name.size() + 2) : why;
}

/// Means and deviations of ImageNet's channels, which images of the world are normalised by.
inline const Normalization kImageNetNormalization = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};

/// Labelled images as they are kept, before anything is decoded: what an ImageSource serves and `credence pack` copies.
/// Reading is safe from several threads.
class ImageStore {
 public:
  virtual ~ImageStore() = default;
  ImageStore(const ImageStore&) = delete;
  ImageStore& operator=(const ImageStore&) = delete;

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t label(std::int64_t record) const { return labels_[static_cast<std::size_t>(record)]; }
  std::int64_t classes() const noexcept { return classes_; }
  const std::vector<std::string>& class_names() const noexcept { return class_names_; }
  int channels() const noexcept { return channels_; }  // 1 or 3, once decoded
  /// The size that all images have; zeros where they differ or where nobody knows.
  const ImageSize& common_size() const noexcept { return common_size_; }
  const Normalization& normalization() const noexcept { return normalization_; }
  /// Whether the other split has other images, and whether it has these.
  bool has_other_split() const noexcept { return has_other_split_; }
  bool serves_both_splits() const noexcept { return serves_both_; }

  /// What a message calls a record: its file, or a file and a number.
  virtual std::string name(std::int64_t record) const = 0;
  /// A path of the record's own, relative to the dataset.
  virtual std::string path(std::int64_t record) const = 0;
  /// One image; `buffer` may hold its bytes and must live as long as they are used. DataError or StorageError where it
  /// cannot be read, with or without its name: see without_name().
  virtual StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const = 0;
  /// What tells this dataset from others, labels apart.
  virtual void add_to(ContentDigest& digest) const = 0;
  /// What tells a record from another of the same path, so far as add_to() does: by default its bytes.
  virtual Digest fingerprint(std::int64_t record) const {
    std::vector<std::uint8_t> buffer;
    return digest_of(std::as_bytes(read(record, buffer).bytes));
  }
  std::span<const std::int64_t> labels() const noexcept { return labels_; }

 protected:
  ImageStore() = default;
  std::vector<std::int64_t> labels_;
  std::int64_t classes_ = 0;
  std::vector<std::string> class_names_;
  int channels_ = 3;
  ImageSize common_size_;
  Normalization normalization_;
  bool has_other_split_ = false;
  bool serves_both_ = false;
};

}  // namespace credence
