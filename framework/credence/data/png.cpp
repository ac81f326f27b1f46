#include "credence/data/png.h"

#include <png.h>

#include "credence/base/errors.h"

namespace credence {
namespace {

/// libpng's simplified reader, which leaves by return codes.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) {
    image_.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_memory(&image_, bytes.data(), bytes.size()) == 0) fail();
    try {
      check_size(size());
    } catch (...) {
      png_image_free(&image_);
      throw;
    }
  }
  ~Reader() { png_image_free(&image_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  ImageSize size() const { return {image_.height, image_.width}; }

  void read(std::uint8_t* to) {
    image_.format = PNG_FORMAT_RGBA;
    image_.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
    if (png_image_finish_read(&image_, nullptr, to, 0, nullptr) == 0) fail();
    // 1: a warning, such as a checksum that differs; the image may be damaged.
    if ((image_.warning_or_error & 3U) != 0) fail();
  }

 private:
  [[noreturn]] void fail() {
    const std::string message = image_.message;
    png_image_free(&image_);
    throw DataError(fmt::format("the PNG is truncated or corrupt: {}", message));
  }

  png_image image_{};
};

}  // namespace

ImageSize png_size(std::span<const std::uint8_t> bytes) {
  return Reader(bytes).size();
}

PixelView decode_png(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& pixels) {
  Reader reader(bytes);
  const auto [height, width] = reader.size();
  pixels.resize(static_cast<std::size_t>(4 * height * width));
  reader.read(pixels.data());
  return {pixels.data(), height, width, 4, 4 * width};
}

}  // namespace credence
