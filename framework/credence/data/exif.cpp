#include "credence/data/exif.h"

#include <algorithm>
#include <string_view>

namespace credence {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr int kUpright = 1;
constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShort = 3;  // type of a 16-bit number
constexpr std::string_view kExif("Exif\0\0", 6);

/// Numbers of a TIFF block in its byte order; 0 outside of it.
struct Tiff {
  Bytes bytes;
  bool big_endian;

  std::uint32_t number(std::size_t offset, std::size_t count) const {
    if (offset > bytes.size() || count > bytes.size() - offset) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[offset + (big_endian ? i : count - 1 - i)];
    return value;
  }
};

int orientation_of(Bytes block) {
  if (block.size() < 8) return kUpright;
  const Tiff tiff{block, block[0] == 'M'};
  if (tiff.number(2, 2) != 42) return kUpright;
  const std::size_t directory = tiff.number(4, 4);
  const std::size_t entries = tiff.number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (tiff.number(entry, 2) != kOrientationTag) continue;
    const std::uint32_t value = tiff.number(entry + 8, 2);
    return tiff.number(entry + 2, 2) == kShort && value >= 1 && value <= 8 ? static_cast<int>(value) : kUpright;
  }
  return kUpright;
}

}  // namespace

int exif_orientation(Bytes jpeg) {
  std::size_t at = 2;  // behind the start of the image
  while (at + 4 <= jpeg.size() && jpeg[at] == 0xff) {
    const std::uint8_t marker = jpeg[at + 1];
    if (marker == 0xff) {  // filling
      ++at;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) break;  // the image's data, or its end
    const std::size_t length = static_cast<std::size_t>(jpeg[at + 2]) << 8 | jpeg[at + 3];
    if (length < 2 || length > jpeg.size() - at - 2) break;
    const Bytes content = jpeg.subspan(at + 4, length - 2);
    const bool exif = content.size() > kExif.size() &&
                      std::equal(kExif.begin(), kExif.end(), content.begin(),
                                 [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
    if (marker == 0xe1 && exif) return orientation_of(content.subspan(kExif.size()));
    at += 2 + length;
  }
  return kUpright;
}

}  // namespace credence
