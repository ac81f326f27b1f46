#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "credence/data/image.h"

namespace credence {

/// Decodes JPEGs one after the other with libjpeg-turbo, its memory reused; one thread at a time. What is truncated or
/// corrupt is a DataError that says what is wrong, but not of which file. Grayscale, CMYK and YCCK become RGB.
class JpegDecoder {
 public:
  JpegDecoder();
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  struct Header {
    ImageSize size;       // as stored
    int orientation = 1;  // of Exif
  };
  /// Reads the header, and that an end of image follows. `bytes` must live until decode() is done.
  Header open(std::span<const std::uint8_t> bytes);

  struct Region {
    PixelView pixels;  // 4 channels, RGB and one that says nothing; valid until the next call
    std::int64_t top;  // where they lie in the scaled image
    std::int64_t left;
  };
  /// At least `box` of the image just opened, decoded at `eighths`/8 of its size (1, 2, 4 or 8): pixel i of the scaled
  /// image stands for the pixels from 8 i / eighths on.
  Region decode(const Box& box, int eighths);
  /// Gives large memory back; what was decoded is gone.
  void release_large();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// `pixels` of 1, 3 or 4 channels (of which the fourth is left out) as a JPEG of this quality, 1 to 100; 4:2:0 below
/// 90, else 4:4:4.
std::vector<std::uint8_t> encode_jpeg(const PixelView& pixels, int quality);

}  // namespace credence
