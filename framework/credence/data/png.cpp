#include "credence/data/png.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <new>

#include "credence/base/errors.h"

namespace credence {
namespace {

/// libpng reports through these three functions; `leave` does so by longjmp over C frames of libpng only. Functions
/// that call setjmp hold nothing with a destructor.
struct State {
  std::span<const std::uint8_t> rest;
  std::jmp_buf jump;
  std::array<char, 128> message;
};

[[noreturn]] void leave(png_structp png, png_const_charp message) {
  auto* const state = static_cast<State*>(png_get_error_ptr(png));
  std::snprintf(state->message.data(), state->message.size(), "%s", message);
  std::longjmp(state->jump, 1);
}

/// Damage in what makes the pixels is an error; a warning is of something else.
void ignore(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep to, std::size_t count) {
  auto* const state = static_cast<State*>(png_get_io_ptr(png));
  if (count > state->rest.size()) png_error(png, "it ends too early");
  std::copy_n(state->rest.begin(), count, to);
  state->rest = state->rest.subspan(count);
}

/// Samples as they are stored: chunks that speak of gamma, colour profiles and the like are passed over, as Pillow
/// does.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes)
      : state_{.rest = bytes, .jump = {}, .message = {}},
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &state_, leave, ignore)) {
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void open() {
    if (info_ == nullptr) throw std::bad_alloc();
    if (!read_header()) fail();
    check_size(size());
  }

  ImageSize size() const { return {png_get_image_height(png_, info_), png_get_image_width(png_, info_)}; }

  /// 4 bytes a pixel.
  void read(std::uint8_t* to) {
    if (!read_pixels(to, 4 * size().width)) fail();
  }

 private:
  bool read_header() {
    if (setjmp(state_.jump) != 0) return false;
    png_set_read_fn(png_, &state_, take);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
    return true;
  }

  bool read_pixels(std::uint8_t* to, std::int64_t row_bytes) {
    if (setjmp(state_.jump) != 0) return false;
    png_set_expand(png_);
    png_set_scale_16(png_);
    png_set_gray_to_rgb(png_);
    png_set_add_alpha(png_, 0xff, PNG_FILLER_AFTER);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (static_cast<std::int64_t>(png_get_rowbytes(png_, info_)) != row_bytes)
      png_error(png_, "its rows are of another size");
    const std::int64_t height = size().height;
    for (int pass = 0; pass < passes; ++pass)
      for (std::int64_t y = 0; y < height; ++y) png_read_row(png_, to + y * row_bytes, nullptr);
    return true;
  }

  [[noreturn]] void fail() const {
    throw DataError(fmt::format("the PNG is truncated or corrupt: {}", state_.message.data()));
  }

  State state_;
  png_structp png_;
  png_infop info_ = nullptr;
};

}  // namespace

ImageSize png_size(std::span<const std::uint8_t> bytes) {
  Reader reader(bytes);
  reader.open();
  return reader.size();
}

PixelView decode_png(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& pixels) {
  Reader reader(bytes);
  reader.open();
  const auto [height, width] = reader.size();
  pixels.resize(static_cast<std::size_t>(4 * height * width));
  reader.read(pixels.data());
  return {pixels.data(), height, width, 4, 4 * width};
}

}  // namespace credence
