#pragma once

#include <cstdint>
#include <vector>

#include "credence/data/image.h"

namespace credence {

/// Where the pixels of one output axis lie in the source, in source pixels (pixel i covers [i, i + 1)).
struct ResizeAxis {
  double begin = 0.0;    // of the output's first pixel
  double length = 0.0;   // of all output pixels
  std::int64_t low = 0;  // source pixels that may be read: [low, high)
  std::int64_t high = 0;
  std::int64_t outputs = 0;
  bool mirrored = false;  // of the horizontal axis: the last output first
};

/// What one row of outputs is made of, for the code of each instruction set.
struct ResizeColumns {
  const std::int16_t* row;      // summed over source rows
  const std::int32_t* first;    // pixel, by output
  const std::int16_t* weights;  // [outputs, taps]
  std::int64_t taps;            // even: the last weight may be zero
  std::int64_t outputs;
  std::int64_t step;  // -1: the last output is written first
};

/// Resampling with a triangle filter, widened where the image shrinks (antialiased): what Pillow and torchvision call
/// bilinear. In whole numbers, so every machine gives the same pixels: weights of 14 bits, 6 bits kept between the
/// passes, within 1 of the exact result. Memory is reused; one thread at a time.
class Resizer {
 public:
  /// `from`: 1, 3 or 4 channels; the axes speak of its pixels. Writes 1 or 3
  /// channels (4 lose the last), [vertical.outputs, horizontal.outputs, channels], no gaps.
  void resize(const PixelView& from, const ResizeAxis& vertical, const ResizeAxis& horizontal, std::uint8_t* to);

 private:
  struct Taps {  // of output i: sources first[i] .. first[i] + count - 1, weights [i * stride ...], the rest zero
    std::vector<std::int32_t> first;
    std::vector<std::int16_t> weights;
    std::int64_t count = 0;
    std::int64_t stride = 0;  // even
  };
  static void plan(const ResizeAxis& axis, std::int64_t size, Taps& taps);

  Taps rows_;
  Taps columns_;
  std::vector<std::int32_t> sum_;
  std::vector<std::int16_t> row_;
};

}  // namespace credence
