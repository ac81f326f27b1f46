#pragma once

#include <cstdint>
#include <vector>

#include "credence/data/jpeg.h"

namespace credence::test {

using Bytes = std::vector<std::uint8_t>;

/// Pixels [height, width, channels] of no particular meaning; references/images.py makes the same.
inline Bytes pattern(std::int64_t height, std::int64_t width, int channels = 3) {
  Bytes pixels;
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        pixels.push_back(static_cast<std::uint8_t>((x * 11 + y * 7 + c * 50 + x * y / 3) % 256));
  return pixels;
}

/// Pixels that JPEG keeps well: no sharp edges, and no two rows or columns alike.
inline Bytes smooth(std::int64_t height, std::int64_t width) {
  Bytes pixels;
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        pixels.push_back(static_cast<std::uint8_t>(20 + 150 * x / width + 60 * y / height + 10 * c));
  return pixels;
}

inline PixelView view(const Bytes& pixels, std::int64_t height, std::int64_t width, int channels = 3) {
  return {pixels.data(), height, width, channels, width * channels};
}

inline Bytes jpeg(std::int64_t height, std::int64_t width, int quality = 95) {
  const Bytes pixels = smooth(height, width);
  return encode_jpeg(view(pixels, height, width), quality);
}

/// The JPEG with an Exif segment that says how it is oriented.
inline Bytes with_orientation(Bytes jpeg, int orientation, bool big_endian = false) {
  const auto number = [&](std::uint32_t value, int bytes) {
    Bytes result;
    for (int i = 0; i < bytes; ++i)
      result.push_back(static_cast<std::uint8_t>(value >> (8 * (big_endian ? bytes - 1 - i : i))));
    return result;
  };
  Bytes block = {'E', 'x', 'i', 'f', 0, 0};
  const auto add = [&](const Bytes& more) { block.insert(block.end(), more.begin(), more.end()); };
  add(big_endian ? Bytes{'M', 'M'} : Bytes{'I', 'I'});
  add(number(42, 2));
  add(number(8, 4));
  add(number(2, 2));  // entries: one before, and the orientation
  for (const auto& [tag, value] : {std::pair{0x0100U, 17U}, std::pair{0x0112U, static_cast<unsigned>(orientation)}}) {
    add(number(tag, 2));
    add(number(3, 2));
    add(number(1, 4));
    add(number(value, 2));
    add(number(0, 2));
  }
  add(number(0, 4));
  const auto length = static_cast<std::uint32_t>(block.size() + 2);
  Bytes segment = {0xff, 0xe1, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  segment.insert(segment.end(), block.begin(), block.end());
  jpeg.insert(jpeg.begin() + 2, segment.begin(), segment.end());
  return jpeg;
}

inline std::string text(const Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace credence::test
