#include "credence/data/image_reader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "credence/base/errors.h"
#include "credence/data/png.h"

namespace credence {
namespace {

/// Orientations 5 to 8 lie on their side.
bool is_turned(int orientation) {
  return orientation >= 5;
}

/// Where Exif's orientation puts the pixels: whether upright rows count from the stored end, and so for columns. Of
/// what lies on its side, these are the stored columns and rows.
struct Mirrors {
  bool vertical;
  bool horizontal;
};
Mirrors mirrors_of(int orientation) {
  return {orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8,
          orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7};
}

void mirror(double& begin, double length, double size) {
  begin = size - begin - length;
}

/// The same view of the image as it is stored.
ImageView as_stored(ImageView view, const ImageSize& upright, int orientation) {
  const Mirrors mirrors = mirrors_of(orientation);
  if (mirrors.vertical) {
    mirror(view.top, view.height, static_cast<double>(upright.height));
    view.readable.top = upright.height - view.readable.top - view.readable.height;
  }
  if (mirrors.horizontal) {
    mirror(view.left, view.width, static_cast<double>(upright.width));
    view.readable.left = upright.width - view.readable.left - view.readable.width;
  }
  if (is_turned(orientation)) {
    std::swap(view.top, view.left);
    std::swap(view.height, view.width);
    std::swap(view.readable.top, view.readable.left);
    std::swap(view.readable.height, view.readable.width);
    std::swap(view.output.height, view.output.width);
  }
  return view;
}

/// Puts pixels [stored.height, stored.width, channels] upright.
void turn(const std::uint8_t* from, const ImageSize& upright, int channels, int orientation, std::uint8_t* to) {
  const Mirrors mirrors = mirrors_of(orientation);
  const bool turned = is_turned(orientation);
  const std::int64_t stored_width = turned ? upright.height : upright.width;
  for (std::int64_t y = 0; y < upright.height; ++y)
    for (std::int64_t x = 0; x < upright.width; ++x, to += channels) {
      const std::int64_t row = mirrors.vertical ? upright.height - 1 - y : y;
      const std::int64_t column = mirrors.horizontal ? upright.width - 1 - x : x;
      const std::int64_t pixel = turned ? column * stored_width + row : row * stored_width + column;
      std::copy_n(from + pixel * channels, channels, to);
    }
}

void mirror_rows(const ImageSize& size, int channels, std::uint8_t* pixels) {
  for (std::int64_t y = 0; y < size.height; ++y, pixels += size.width * channels)
    for (std::int64_t x = 0; x < size.width / 2; ++x)
      std::swap_ranges(pixels + x * channels, pixels + (x + 1) * channels, pixels + (size.width - 1 - x) * channels);
}

/// How far an output pixel's filter reaches beyond the view, source pixels.
double reach(double length, std::int64_t outputs) {
  return std::max(length / static_cast<double>(outputs), 1.0) + 1.0;
}

/// The pixels that a view's filter reads.
Box needed(const ImageView& view) {
  const double vertical = reach(view.height, view.output.height);
  const double horizontal = reach(view.width, view.output.width);
  const Box& limit = view.readable;
  Box box;
  box.top = std::max(limit.top, static_cast<std::int64_t>(std::floor(view.top - vertical)));
  box.left = std::max(limit.left, static_cast<std::int64_t>(std::floor(view.left - horizontal)));
  box.height =
      std::min(limit.top + limit.height, static_cast<std::int64_t>(std::ceil(view.top + view.height + vertical))) -
      box.top;
  box.width =
      std::min(limit.left + limit.width, static_cast<std::int64_t>(std::ceil(view.left + view.width + horizontal))) -
      box.left;
  return box;
}

/// The smallest scale that leaves at least as many pixels as are wanted.
int enough_eighths(const ImageView& view) {
  int eighths = 1;
  while (eighths < 8 && (view.height * eighths < 8.0 * static_cast<double>(view.output.height) ||
                         view.width * eighths < 8.0 * static_cast<double>(view.output.width)))
    eighths *= 2;
  return eighths;
}

/// One axis of a view, in pixels of an image scaled by `scale` of which [offset, offset + size) was decoded.
ResizeAxis axis_of(double begin, double length, std::int64_t low, std::int64_t count, std::int64_t outputs,
                   double scale, std::int64_t offset, std::int64_t size) {
  ResizeAxis axis;
  const auto shift = static_cast<double>(offset);
  axis.begin = begin * scale - shift;
  axis.length = length * scale;
  axis.low = static_cast<std::int64_t>(std::floor(static_cast<double>(low) * scale - shift));
  axis.high = static_cast<std::int64_t>(std::ceil(static_cast<double>(low + count) * scale - shift));
  axis.low = std::clamp<std::int64_t>(axis.low, 0, size - 1);
  axis.high = std::clamp<std::int64_t>(axis.high, axis.low + 1, size);
  axis.outputs = outputs;
  return axis;
}

/// Rec. 601's luma of decoded pixels, whose first three channels are colours; of what was gray, itself.
PixelView gray_of(const PixelView& pixels, std::vector<std::uint8_t>& gray) {
  gray.resize(static_cast<std::size_t>(pixels.height * pixels.width));
  std::uint8_t* to = gray.data();
  for (std::int64_t y = 0; y < pixels.height; ++y) {
    const std::uint8_t* from = pixels.data + y * pixels.row_bytes;
    for (std::int64_t x = 0; x < pixels.width; ++x, from += pixels.channels)
      *to++ = static_cast<std::uint8_t>((77 * from[0] + 150 * from[1] + 29 * from[2] + 128) >> 8);
  }
  return {gray.data(), pixels.height, pixels.width, 1, pixels.width};
}

}  // namespace

ImageView box_view(const Box& box, const ImageSize& output) {
  ImageView view;
  view.top = static_cast<double>(box.top);
  view.left = static_cast<double>(box.left);
  view.height = static_cast<double>(box.height);
  view.width = static_cast<double>(box.width);
  view.readable = box;
  view.output = output;
  return view;
}

ImageView whole_view(const ImageSize& image, const ImageSize& output) {
  return box_view({0, 0, image.height, image.width}, output);
}

ImageSize with_short_side(const ImageSize& image, std::int64_t short_side) {
  const std::int64_t shorter = std::min(image.height, image.width);
  const std::int64_t longer = std::max<std::int64_t>(short_side * std::max(image.height, image.width) / shorter, 1);
  return image.height <= image.width ? ImageSize{short_side, longer} : ImageSize{longer, short_side};
}

ImageView center_view(const ImageSize& image, const ImageSize& output, std::int64_t short_side) {
  if (image == output) return whole_view(image, output);
  const ImageSize resized = with_short_side(image, short_side);
  const double vertical = static_cast<double>(image.height) / static_cast<double>(resized.height);
  const double horizontal = static_cast<double>(image.width) / static_cast<double>(resized.width);
  const double top = std::nearbyint(static_cast<double>(resized.height - output.height) / 2.0);
  const double left = std::nearbyint(static_cast<double>(resized.width - output.width) / 2.0);
  ImageView view = whole_view(image, output);
  view.top = top * vertical;
  view.left = left * horizontal;
  view.height = static_cast<double>(output.height) * vertical;
  view.width = static_cast<double>(output.width) * horizontal;
  return view;
}

ImageSize ImageReader::open(const StoredImage& image, int channels) {
  image_ = image;
  channels_ = channels;
  orientation_ = 1;
  switch (image.encoding) {
    case Encoding::raw:
      stored_ = image.size;
      check_size(stored_);
      ensure(static_cast<std::int64_t>(image.bytes.size()) == stored_.height * stored_.width * channels,
             "an image's pixels do not fit its size");
      break;
    case Encoding::png:
      stored_ = png_size(image.bytes);
      break;
    case Encoding::jpeg: {
      const JpegDecoder::Header header = jpeg_.open(image.bytes);
      stored_ = header.size;
      orientation_ = header.orientation;
      break;
    }
  }
  return is_turned(orientation_) ? ImageSize{stored_.width, stored_.height} : stored_;
}

void ImageReader::check() {
  if (image_.encoding == Encoding::jpeg) jpeg_.decode({0, 0, stored_.height, stored_.width}, 1);
  if (image_.encoding == Encoding::png) decode_png(image_.bytes, pixels_);
}

void ImageReader::release_large() {
  jpeg_.release_large();
  for (std::vector<std::uint8_t>* const bytes : {&pixels_, &gray_, &turned_}) credence::release_large(*bytes);
}

void ImageReader::read(const ImageView& upright_view, std::uint8_t* to) {
  const ImageSize upright = is_turned(orientation_) ? ImageSize{stored_.width, stored_.height} : stored_;
  const ImageView view = as_stored(upright_view, upright, orientation_);
  PixelView pixels{image_.bytes.data(), stored_.height, stored_.width, channels_, stored_.width * channels_};
  std::int64_t top = 0;
  std::int64_t left = 0;
  double scale = 1.0;
  if (image_.encoding == Encoding::jpeg) {
    const int eighths = enough_eighths(view);
    const JpegDecoder::Region region = jpeg_.decode(needed(view), eighths);
    pixels = region.pixels;
    top = region.top;
    left = region.left;
    scale = eighths / 8.0;
  } else if (image_.encoding == Encoding::png) {
    pixels = decode_png(image_.bytes, pixels_);
  }
  if (channels_ == 1 && pixels.channels != 1) pixels = gray_of(pixels, gray_);
  std::uint8_t* target = to;
  if (orientation_ != 1) {
    turned_.resize(static_cast<std::size_t>(view.output.height * view.output.width * channels_));
    target = turned_.data();
  }
  const ResizeAxis vertical = axis_of(view.top, view.height, view.readable.top, view.readable.height,
                                      view.output.height, scale, top, pixels.height);
  ResizeAxis horizontal = axis_of(view.left, view.width, view.readable.left, view.readable.width, view.output.width,
                                  scale, left, pixels.width);
  horizontal.mirrored = view.mirrored && orientation_ == 1;
  resizer_.resize(pixels, vertical, horizontal, target);
  if (orientation_ == 1) return;
  turn(target, upright_view.output, channels_, orientation_, to);
  if (view.mirrored) mirror_rows(upright_view.output, channels_, to);
}

}  // namespace credence
