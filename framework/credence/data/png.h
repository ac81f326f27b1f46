#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "credence/data/image.h"

namespace credence {

/// Size of a PNG by its header. DataError says what is wrong, but not of which file.
ImageSize png_size(std::span<const std::uint8_t> bytes);

/// All of a PNG into `pixels`, whose memory is reused: 4 channels, RGB and one that says nothing. Palettes, grayscale
/// and 16 bits become 8-bit RGB; transparency is left out.
PixelView decode_png(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& pixels);

}  // namespace credence
