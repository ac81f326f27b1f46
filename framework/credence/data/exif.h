#pragma once

#include <cstdint>
#include <span>

namespace credence {

/// The orientation, 1 to 8, that a JPEG's Exif segment gives (Exif 2.3, tag 0x0112); 1, upright, where there is none or
/// where it makes no sense. Reads nothing outside `jpeg`, whatever it holds.
int exif_orientation(std::span<const std::uint8_t> jpeg);

}  // namespace credence
