#pragma once

#include <cstdint>
#include <vector>

#include "credence/data/image_reader.h"
#include "credence/data/image_store.h"

namespace credence {

/// How images are kept in a packed dataset.
struct PackSettings {
  enum class Kind : std::uint8_t { keep, jpeg, raw };
  Kind kind = Kind::keep;       // keep: files' bytes as they are, pixels as they are
  std::int64_t short_side = 0;  // not keep: larger images are brought to it; 0: none is
  int quality = 95;             // of jpeg
};

/// What is packed of one image. Sizes are those of the upright image.
struct PackedImage {
  Encoding encoding = Encoding::raw;
  ImageSize size;
  std::span<const std::uint8_t> bytes;  // valid until the next call
};

/// Makes records of a store's images; one thread at a time. Every image is decoded once, so that what is packed can be
/// read: DataError otherwise, which does not name the record.
class RecordPacker {
 public:
  RecordPacker(const ImageStore& store, const PackSettings& settings) : store_(store), settings_(settings) {}
  PackedImage pack(std::int64_t record);

 private:
  const ImageStore& store_;
  PackSettings settings_;
  ImageReader reader_;
  std::vector<std::uint8_t> stored_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> encoded_;
};

}  // namespace credence
