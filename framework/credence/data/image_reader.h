#pragma once

#include <cstdint>
#include <vector>

#include "credence/data/image_store.h"
#include "credence/data/jpeg.h"
#include "credence/data/resize.h"

namespace credence {

/// What of an upright image is wanted, and how large.
struct ImageView {
  double top = 0.0;
  double left = 0.0;
  double height = 0.0;
  double width = 0.0;
  Box readable;  // the filter reads nothing outside
  ImageSize output;
  bool mirrored = false;  // the last column first
};

/// A part of the image; the filter reads nothing outside.
ImageView box_view(const Box& box, const ImageSize& output);
/// The whole image at the given size.
ImageView whole_view(const ImageSize& image, const ImageSize& output);
/// The middle of the image, `output` pixels high and wide, once its short side is `short_side` pixels: torchvision's
/// Resize and CenterCrop. An image that has the output's size already is taken as it is.
ImageView center_view(const ImageSize& image, const ImageSize& output, std::int64_t short_side);
/// The size whose short side is `short_side`, sides in proportion (the longer one cut to a whole number).
ImageSize with_short_side(const ImageSize& image, std::int64_t short_side);

/// Turns stored images into pixels, one after the other, reusing its memory; one thread at a time. DataErrors say what
/// is wrong, but not of which record.
class ImageReader {
 public:
  /// The size of the image that read() will be asked of, upright. `channels`: 1 or 3; of colours 1 is their luma.
  ImageSize open(const StoredImage& image, int channels);
  /// [output height, output width, channels] of the image opened. JPEGs are decoded where the view needs it only, and
  /// at a half, a quarter or an eighth of their size where that is still enough.
  void read(const ImageView& view, std::uint8_t* to);
  /// Decodes all of the image opened, at its smallest: whether it can be is then known, whatever views of it are read.
  void check();
  /// Gives large memory back, the image's last.
  void release_large();

 private:
  StoredImage image_;
  int channels_ = 3;
  int orientation_ = 1;
  ImageSize stored_;  // before it is put upright
  JpegDecoder jpeg_;
  Resizer resizer_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> gray_;
  std::vector<std::uint8_t> turned_;
};

}  // namespace credence
