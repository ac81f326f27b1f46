#include "credence/data/image.h"

#include <algorithm>
#include <array>

#include "credence/base/errors.h"

namespace credence {
namespace {

template <std::size_t N>
bool begins(std::span<const std::uint8_t> bytes, const std::array<std::uint8_t, N>& magic) {
  return bytes.size() >= N && std::equal(magic.begin(), magic.end(), bytes.begin());
}

}  // namespace

std::string_view name_of(Encoding encoding) {
  switch (encoding) {
    case Encoding::raw:
      return "raw";
    case Encoding::jpeg:
      return "JPEG";
    case Encoding::png:
      return "PNG";
  }
  return "unknown";
}

Encoding sniff_encoding(std::span<const std::uint8_t> bytes) {
  if (begins<3>(bytes, {0xff, 0xd8, 0xff})) return Encoding::jpeg;
  if (begins<8>(bytes, {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'})) return Encoding::png;
  throw DataError(bytes.empty() ? "the file is empty" : "the content is neither JPEG nor PNG");
}

void check_size(const ImageSize& size) {
  if (size.height > 0 && size.width > 0 && size.height <= kMostPixels / size.width) return;
  throw DataError(
      fmt::format("{} x {} pixels: an image needs at least one and at most {}", size.height, size.width, kMostPixels));
}

}  // namespace credence
