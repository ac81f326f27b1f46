#include "credence/data/jpeg.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
// jpeglib.h needs stdio.h before it.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <array>

#include "credence/base/errors.h"
#include "credence/data/exif.h"

namespace credence {
namespace {

// A small hostile file can ask for thousands of scans, each a pass over the whole image: so many at most, and so many
// pixels passed over in all, which leaves the largest image 16 scans (files have about 10).
constexpr std::int64_t kMostScans = 500;
constexpr std::int64_t kMostPixelsScanned = 16 * kMostPixels;
constexpr long kMostBytes = 2L << 30;

/// libjpeg reports through these two functions; both leave by longjmp over C frames of libjpeg only. Functions that
/// call setjmp hold nothing with a destructor.
struct ErrorState {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> message;
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* const state = reinterpret_cast<ErrorState*>(info->err);
  info->err->format_message(info, state->message.data());
  std::longjmp(state->jump, 1);
}

void note(j_common_ptr info, int level) {
  if (level >= 0) return;  // a trace
  switch (info->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:  // between markers; the image itself is whole
    case JWRN_ADOBE_XFORM:
    case JWRN_BOGUS_ICC:
    case JWRN_JFIF_MAJOR:
      return;
    default:
      leave(info);
  }
}

void prepare(ErrorState& error) {
  jpeg_std_error(&error.manager);
  error.manager.error_exit = leave;
  error.manager.emit_message = note;
}

void limit_scans(j_common_ptr info) {
  if (!info->is_decompressor) return;
  const auto* const image = reinterpret_cast<j_decompress_ptr>(info);
  const std::int64_t pixels = std::int64_t{image->image_height} * image->image_width;
  const std::int64_t most = std::min(kMostScans, kMostPixelsScanned / std::max<std::int64_t>(pixels, 1));
  if (image->input_scan_number <= most) return;
  auto* const state = reinterpret_cast<ErrorState*>(info->err);
  std::snprintf(state->message.data(), state->message.size(), "more than %d scans of %u x %u pixels",
                static_cast<int>(most), image->image_height, image->image_width);
  std::longjmp(state->jump, 1);
}

/// An image that was cut short has no end marker behind its header. (One in an Exif thumbnail lies before.)
bool ends(std::span<const std::uint8_t> bytes, std::size_t header_bytes) {
  for (std::size_t i = bytes.size(); i >= header_bytes + 2; --i)
    if (bytes[i - 2] == 0xff && bytes[i - 1] == 0xd9) return true;
  return false;
}

/// CMYK to RGBX in place. Adobe stores the inverse of ink.
void convert_inks(std::uint8_t* row, std::int64_t width, bool inverted) {
  for (std::uint8_t* pixel = row; pixel != row + 4 * width; pixel += 4) {
    const unsigned black = inverted ? pixel[3] : 255U - pixel[3];
    for (int c = 0; c < 3; ++c) {
      const unsigned ink = inverted ? pixel[c] : 255U - pixel[c];
      pixel[c] = static_cast<std::uint8_t>((ink * black + 127) / 255);
    }
  }
}

}  // namespace

struct JpegDecoder::State {
  State() {
    prepare(error);
    info.err = &error.manager;
    if (setjmp(error.jump) != 0) throw std::bad_alloc();
    jpeg_create_decompress(&info);
    progress.progress_monitor = limit_scans;
    info.progress = &progress;
    info.mem->max_memory_to_use = kMostBytes;
  }
  ~State() { jpeg_destroy_decompress(&info); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  [[noreturn]] void fail() {
    jpeg_abort_decompress(&info);
    throw DataError(fmt::format("the JPEG is truncated or corrupt: {}", error.message.data()));
  }

  bool read_header(const std::uint8_t* bytes, std::size_t count) {
    if (setjmp(error.jump) != 0) return false;
    jpeg_mem_src(&info, bytes, count);
    jpeg_read_header(&info, TRUE);
    return true;
  }

  /// Columns from `left` on, `width` of them, become what is decoded: whole blocks that hold them.
  bool start(const Box& box, int eighths, Box* scaled) {
    if (setjmp(error.jump) != 0) return false;
    info.scale_num = static_cast<unsigned>(eighths);
    info.scale_denom = 8;
    info.do_fancy_upsampling = FALSE;
    info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_EXT_RGBX;
    jpeg_start_decompress(&info);
    const std::int64_t height = info.output_height;
    const std::int64_t width = info.output_width;
    scaled->top = std::clamp<std::int64_t>(box.top * eighths / 8, 0, height - 1);
    scaled->left = std::clamp<std::int64_t>(box.left * eighths / 8, 0, width - 1);
    const std::int64_t bottom = std::min(((box.top + box.height) * eighths + 7) / 8, height);
    const std::int64_t right = std::min(((box.left + box.width) * eighths + 7) / 8, width);
    scaled->height = std::max<std::int64_t>(bottom - scaled->top, 1);
    scaled->width = std::max<std::int64_t>(right - scaled->left, 1);
    if (scaled->width < width) {
      auto offset = static_cast<JDIMENSION>(scaled->left);
      auto columns = static_cast<JDIMENSION>(scaled->width);
      jpeg_crop_scanline(&info, &offset, &columns);
      scaled->left = offset;
      scaled->width = columns;
    }
    return true;
  }

  bool read_rows(const Box& scaled, std::uint8_t* to) {
    if (setjmp(error.jump) != 0) return false;
    if (scaled.top > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(scaled.top));
    for (std::int64_t y = 0; y < scaled.height;) {
      JSAMPROW rows[4];
      const std::int64_t count = std::min<std::int64_t>(4, scaled.height - y);
      for (std::int64_t i = 0; i < count; ++i) rows[i] = to + (y + i) * 4 * scaled.width;
      y += jpeg_read_scanlines(&info, rows, static_cast<JDIMENSION>(count));
    }
    jpeg_abort_decompress(&info);
    return true;
  }

  ErrorState error{};
  jpeg_decompress_struct info{};
  jpeg_progress_mgr progress{};
  std::vector<std::uint8_t> pixels;
};

JpegDecoder::JpegDecoder() : state_(std::make_unique<State>()) {}
JpegDecoder::~JpegDecoder() = default;

void JpegDecoder::release_large() {
  jpeg_abort_decompress(&state_->info);
  credence::release_large(state_->pixels);
}

JpegDecoder::Header JpegDecoder::open(std::span<const std::uint8_t> bytes) {
  State& state = *state_;
  jpeg_abort_decompress(&state.info);
  if (!state.read_header(bytes.data(), bytes.size())) state.fail();
  const ImageSize size{state.info.image_height, state.info.image_width};
  check_size(size);
  if (!ends(bytes, bytes.size() - state.info.src->bytes_in_buffer))
    throw DataError("the JPEG is truncated: it has no end of image");
  return {size, exif_orientation(bytes)};
}

JpegDecoder::Region JpegDecoder::decode(const Box& box, int eighths) {
  State& state = *state_;
  Box scaled;
  if (!state.start(box, eighths, &scaled)) state.fail();
  // A little more than needed: SIMD code may write whole vectors.
  const auto bytes = static_cast<std::size_t>(4 * scaled.width * scaled.height) + 64;
  if (state.pixels.size() < bytes) state.pixels.resize(bytes);  // growing writes zeros first
  const bool inks = state.info.out_color_space == JCS_CMYK;
  const bool inverted = state.info.saw_Adobe_marker != 0;
  if (!state.read_rows(scaled, state.pixels.data())) state.fail();
  if (inks) convert_inks(state.pixels.data(), scaled.width * scaled.height, inverted);
  return {{state.pixels.data(), scaled.height, scaled.width, 4, 4 * scaled.width}, scaled.top, scaled.left};
}

namespace {

struct Encoder {
  ErrorState error{};
  jpeg_compress_struct info{};
  unsigned char* bytes = nullptr;
  unsigned long count = 0;

  ~Encoder() {
    jpeg_destroy_compress(&info);
    std::free(bytes);
  }

  bool run(const PixelView& pixels, int quality) {
    info.err = &error.manager;
    if (setjmp(error.jump) != 0) return false;
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &bytes, &count);
    info.image_height = static_cast<JDIMENSION>(pixels.height);
    info.image_width = static_cast<JDIMENSION>(pixels.width);
    info.input_components = pixels.channels;
    info.in_color_space = pixels.channels == 1 ? JCS_GRAYSCALE : pixels.channels == 3 ? JCS_RGB : JCS_EXT_RGBX;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, quality, TRUE);
    if (quality >= 90) info.comp_info[0].h_samp_factor = info.comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
      JSAMPROW row = const_cast<JSAMPROW>(pixels.data + info.next_scanline * pixels.row_bytes);
      jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    return true;
  }
};

}  // namespace

std::vector<std::uint8_t> encode_jpeg(const PixelView& pixels, int quality) {
  ensure(quality >= 1 && quality <= 100, "a JPEG's quality is between 1 and 100");
  Encoder encoder;
  prepare(encoder.error);
  if (!encoder.run(pixels, quality))
    throw DataError(fmt::format("the image cannot be written as JPEG: {}", encoder.error.message.data()));
  return {encoder.bytes, encoder.bytes + encoder.count};
}

}  // namespace credence
