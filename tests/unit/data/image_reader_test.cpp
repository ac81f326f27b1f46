#include "credence/data/image_reader.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs stdio.h before it.
#include <jpeglib.h>

#include "credence/base/errors.h"
#include "credence/data/exif.h"
#include "credence/data/png.h"
#include "unit/data/images.h"

namespace credence {
namespace {

#include "unit/data/references/images.inc"

using test::Bytes;
using testing::HasSubstr;
using testing::ThrowsMessage;

StoredImage stored(const Bytes& file) {
  return {sniff_encoding(file), {}, file};
}

/// The whole image at its own size.
Bytes decoded(const StoredImage& image, int channels = 3) {
  ImageReader reader;
  const ImageSize size = reader.open(image, channels);
  Bytes pixels(static_cast<std::size_t>(size.height * size.width * channels));
  reader.read(whole_view(size, size), pixels.data());
  return pixels;
}

int largest_difference(const Bytes& a, const Bytes& b) {
  if (a.size() != b.size()) return 1000;
  int largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(int{a[i]} - int{b[i]}));
  return largest;
}

TEST(ImageReader, DecodesWhatPillowDecodes) {
  EXPECT_EQ(decoded(stored(jpeg_color_file)), jpeg_color_pixels);
  EXPECT_EQ(decoded(stored(jpeg_progressive_file)), jpeg_progressive_pixels);
  EXPECT_EQ(decoded(stored(jpeg_gray_file)), jpeg_gray_pixels);
  EXPECT_LE(largest_difference(decoded(stored(jpeg_cmyk_file)), jpeg_cmyk_pixels), 1) << "the product is rounded once";
  EXPECT_EQ(decoded(stored(png_palette_file)), png_palette_pixels);
  EXPECT_EQ(decoded(stored(png_gray_file)), png_gray_pixels);
  EXPECT_EQ(decoded(stored(png_alpha_file)), png_alpha_pixels) << "transparency is left out, not blended";
}

TEST(ImageReader, MakesOneChannelOfEncodedImages) {
  for (const Bytes& file : {jpeg_gray_file, png_gray_file, jpeg_color_file}) {
    const Bytes colors = decoded(stored(file));
    const Bytes gray = decoded(stored(file), 1);
    ASSERT_EQ(3 * gray.size(), colors.size());
    for (std::size_t i = 0; i < gray.size(); ++i) {
      const double luma = 0.299 * colors[3 * i] + 0.587 * colors[3 * i + 1] + 0.114 * colors[3 * i + 2];
      ASSERT_NEAR(gray[i], luma, 1.0) << "weights of 1/256, and one rounding";
      if (colors[3 * i] == colors[3 * i + 1] && colors[3 * i] == colors[3 * i + 2]) {
        ASSERT_EQ(gray[i], colors[3 * i]);
      }
    }
  }
}

TEST(ImageReader, PutsEveryOrientationUpright) {
  constexpr std::int64_t kHeight = 16;
  constexpr std::int64_t kWidth = 24;
  const Bytes file = test::jpeg(kHeight, kWidth);
  const Bytes lying = decoded(stored(file));
  for (int orientation = 1; orientation <= 8; ++orientation) {
    // Exif 2.3: where the stored first row and first column belong.
    const auto source = [&](std::int64_t y, std::int64_t x) -> std::pair<std::int64_t, std::int64_t> {
      switch (orientation) {
        case 2:
          return {y, kWidth - 1 - x};
        case 3:
          return {kHeight - 1 - y, kWidth - 1 - x};
        case 4:
          return {kHeight - 1 - y, x};
        case 5:
          return {x, y};
        case 6:
          return {kHeight - 1 - x, y};
        case 7:
          return {kHeight - 1 - x, kWidth - 1 - y};
        case 8:
          return {x, kWidth - 1 - y};
        default:
          return {y, x};
      }
    };
    const std::int64_t height = orientation < 5 ? kHeight : kWidth;
    const std::int64_t width = orientation < 5 ? kWidth : kHeight;
    Bytes expected;
    for (std::int64_t y = 0; y < height; ++y)
      for (std::int64_t x = 0; x < width; ++x)
        for (std::int64_t c = 0; c < 3; ++c) {
          const auto [row, column] = source(y, x);
          expected.push_back(lying[static_cast<std::size_t>((row * kWidth + column) * 3 + c)]);
        }
    for (const bool big_endian : {false, true}) {
      const Bytes turned = test::with_orientation(file, orientation, big_endian);
      ASSERT_EQ(exif_orientation(turned), orientation);
      EXPECT_EQ(decoded(stored(turned)), expected) << orientation;
    }
    // A part of the upright image is the same part, whatever is decoded for it.
    const Bytes turned = test::with_orientation(file, orientation);
    ImageReader reader;
    reader.open(stored(turned), 3);
    Bytes part(5 * 4 * 3);
    reader.read(box_view({3, 2, 5, 4}, {5, 4}), part.data());
    Bytes cut;
    for (std::int64_t y = 3; y < 8; ++y)
      cut.insert(cut.end(), expected.begin() + (y * width + 2) * 3, expected.begin() + (y * width + 6) * 3);
    EXPECT_LE(largest_difference(part, cut), 4) << orientation;
  }
}

TEST(ImageReader, MirroredIsTheSameBackwards) {
  const Bytes pixels = test::pattern(20, 30);
  const auto rows_backwards = [](const Bytes& image, std::int64_t width) {
    Bytes result;
    for (std::int64_t y = 0; y < static_cast<std::int64_t>(image.size()) / 3 / width; ++y)
      for (std::int64_t x = width - 1; x >= 0; --x)
        result.insert(result.end(), image.begin() + (y * width + x) * 3, image.begin() + (y * width + x) * 3 + 3);
    return result;
  };
  const Bytes jpeg = test::jpeg(40, 60);
  const Bytes turned = test::with_orientation(jpeg, 6);
  for (const StoredImage& image :
       {StoredImage{Encoding::raw, {20, 30}, pixels}, stored(jpeg), stored(png_gray_file), stored(turned)}) {
    ImageReader reader;
    ImageView view = whole_view(reader.open(image, 3), {11, 13});
    Bytes plain(11 * 13 * 3);
    Bytes mirrored(11 * 13 * 3);
    reader.read(view, plain.data());
    view.mirrored = true;
    reader.open(image, 3);
    reader.read(view, mirrored.data());
    EXPECT_EQ(mirrored, rows_backwards(plain, 13));
  }
}

TEST(ImageReader, ExifBehindOtherSegmentsCounts) {
  // As a camera's file that a program saved again: JFIF first, then a comment, then Exif.
  Bytes file = test::with_orientation(test::jpeg(8, 8), 6);
  const Bytes others = {0xff, 0xe0, 0, 7, 'J', 'F', 'I', 'F', 0, 0xff, 0xff, 0xfe, 0, 4, 'h', 'i'};
  file.insert(file.begin() + 2, others.begin(), others.end());
  EXPECT_EQ(exif_orientation(file), 6);
}

TEST(ImageReader, SenselessExifIsUpright) {
  const Bytes file = test::jpeg(8, 8);
  EXPECT_EQ(exif_orientation(file), 1);
  for (const int wrong : {0, 9, 255}) EXPECT_EQ(exif_orientation(test::with_orientation(file, wrong)), 1);
  const Bytes good = test::with_orientation(file, 6);
  for (std::size_t length = 0; length < good.size(); ++length) {
    const int found = exif_orientation(std::span(good).first(length));
    EXPECT_TRUE(found == 1 || found == 6);
  }
}

TEST(ImageReader, ScaledDecodingKeepsTheGeometry) {
  // A linear image: whatever the scale, a pixel of the result is the value at the middle of what it stands for.
  constexpr std::int64_t kSize = 512;
  Bytes pixels;
  for (std::int64_t y = 0; y < kSize; ++y)
    for (std::int64_t x = 0; x < kSize; ++x)
      for (int c = 0; c < 3; ++c) pixels.push_back(static_cast<std::uint8_t>(20 + 0.2 * double(x) + 0.2 * double(y)));
  const Bytes file = encode_jpeg(test::view(pixels, kSize, kSize), 98);
  for (const std::int64_t output : {400, 200, 100, 50, 20})
    for (const Box& box : {Box{0, 0, 512, 512}, Box{37, 101, 301, 222}, Box{200, 3, 300, 400}}) {
      ImageReader reader;
      reader.open(stored(file), 3);
      Bytes part(static_cast<std::size_t>(output * output * 3));
      reader.read(box_view(box, {output, output}), part.data());
      double worst = 0.0;
      for (std::int64_t y = 2; y < output - 2; ++y)
        for (std::int64_t x = 2; x < output - 2; ++x) {
          const double row = double(box.top) + (double(y) + 0.5) * double(box.height) / double(output) - 0.5;
          const double column = double(box.left) + (double(x) + 0.5) * double(box.width) / double(output) - 0.5;
          const double expected = 20 + 0.2 * row + 0.2 * column - 0.5;  // values were cut to whole numbers
          worst = std::max(worst, std::abs(expected - part[static_cast<std::size_t>((y * output + x) * 3 + 1)]));
        }
      // Half a level each of: cut values, quantised coefficients, colour conversion, rounding. A shift by one pixel of
      // an eighth's scale would be 1.6 a direction.
      EXPECT_LT(worst, 2.0) << output << " of " << box.height << " x " << box.width;
    }
}

TEST(ImageReader, ResizesAsTorchDoes) {
  const Bytes pixels = test::pattern(13, 17);
  const auto check = [&](std::int64_t height, std::int64_t width, const std::vector<double>& expected) {
    ImageReader reader;
    reader.open({Encoding::raw, {13, 17}, pixels}, 3);
    Bytes resized(static_cast<std::size_t>(height * width * 3));
    reader.read(whole_view({13, 17}, {height, width}), resized.data());
    ASSERT_EQ(resized.size(), expected.size());
    // Weights of 14 bits: 255 levels times 2^-15 a weight, at most ten weights an axis; 6 bits between; one rounding.
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(resized[i], expected[i], 0.5 + 2 * 10 * 255.0 / 32768 + 1.0 / 64)
          << height << " " << width << " " << i;
  };
  check(5, 7, resized_5_7);
  check(20, 9, resized_20_9);
  check(13, 17, resized_13_17);
  check(3, 40, resized_3_40);
}

TEST(ImageReader, FourBytesAPixelAreResizedAsThreeAre) {
  const Bytes three = test::pattern(13, 17);
  Bytes four;
  for (std::size_t i = 0; i < three.size(); i += 3) {
    four.insert(four.end(), three.begin() + static_cast<std::ptrdiff_t>(i),
                three.begin() + static_cast<std::ptrdiff_t>(i) + 3);
    four.push_back(200);
  }
  Resizer resizer;
  for (const auto& [height, width] : {std::pair{5, 7}, {20, 9}, {13, 17}, {3, 40}}) {
    const auto resized = [&](const Bytes& pixels, int channels) {
      Bytes to(static_cast<std::size_t>(height * width * 3));
      resizer.resize(test::view(pixels, 13, 17, channels), {.length = 13.0, .high = 13, .outputs = height},
                     {.length = 17.0, .high = 17, .outputs = width}, to.data());
      return to;
    };
    EXPECT_EQ(resized(four, 4), resized(three, 3)) << height << " " << width;
  }
}

TEST(ImageReader, TheMiddleAsTorchvisionTakesIt) {
  const ImageView view = center_view({375, 500}, {224, 224}, 256);  // resized to 256 x 341
  EXPECT_DOUBLE_EQ(view.top, 16 * 375.0 / 256);
  EXPECT_DOUBLE_EQ(view.left, 58 * 500.0 / 341) << "58.5 is rounded to the even number";
  EXPECT_DOUBLE_EQ(view.height, 224 * 375.0 / 256);
  EXPECT_DOUBLE_EQ(view.width, 224 * 500.0 / 341);
  EXPECT_EQ(with_short_side({375, 500}, 256), (ImageSize{256, 341}));
  EXPECT_EQ(with_short_side({500, 375}, 256), (ImageSize{341, 256}));
  const ImageView same = center_view({32, 32}, {32, 32}, 37);
  EXPECT_EQ(same.height, 32) << "an image of the right size is taken as it is";
}

TEST(ImageReader, NamesWhatIsWrong) {
  const auto opening = [](const Bytes& file) { return [&file] { decoded(stored(file)); }; };
  const Bytes empty;
  EXPECT_THAT(opening(empty), ThrowsMessage<DataError>(HasSubstr("empty")));
  const Bytes words = {'h', 'e', 'l', 'l', 'o', '\n'};
  EXPECT_THAT(opening(words), ThrowsMessage<DataError>(HasSubstr("neither JPEG nor PNG")));
  for (const Bytes& file : {test::jpeg(64, 64), png_alpha_file, jpeg_progressive_file}) {
    int refused = 0;
    for (std::size_t length = 8; length < file.size(); ++length) {
      const Bytes cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length));
      try {
        decoded(stored(cut));
      } catch (const DataError& error) {
        EXPECT_THAT(error.what(), testing::AnyOf(HasSubstr("truncated"), HasSubstr("corrupt")));
        ++refused;
      }
    }
    // Of a PNG the last chunk is 12 bytes without a pixel.
    EXPECT_GE(refused, static_cast<int>(file.size()) - 8 - 12);
  }
}

TEST(ImageReader, RefusesHostileSizesBeforeTakingMemory) {
  Bytes file = test::jpeg(16, 16);
  for (std::size_t i = 0; i + 8 < file.size(); ++i)
    if (file[i] == 0xff && file[i + 1] == 0xc0) std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(i) + 5, 4, 0xfe);
  EXPECT_THAT([&] { decoded(stored(file)); }, ThrowsMessage<DataError>(HasSubstr("65278 x 65278 pixels")));
  Bytes png = png_gray_file;
  png[18] = png[22] = 0x7f;  // high bytes of width and height
  EXPECT_THROW(decoded(stored(png)), DataError);
}

/// A gray progressive JPEG of few bytes with 253 scans: of every coefficient the high bits, then the others one by one.
Bytes jpeg_of_many_scans(unsigned side) {
  std::vector<jpeg_scan_info> scans = {{1, {0}, 0, 0, 0, 0}};
  for (int k = 1; k < 64; ++k) {
    scans.push_back({1, {0}, k, k, 0, 3});
    for (int bit = 3; bit > 0; --bit) scans.push_back({1, {0}, k, k, bit, bit - 1});
  }
  jpeg_error_mgr errors;
  jpeg_compress_struct info{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long count = 0;
  jpeg_mem_dest(&info, &bytes, &count);
  info.image_height = info.image_width = side;
  info.input_components = 1;
  info.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  info.scan_info = scans.data();
  info.num_scans = static_cast<int>(scans.size());
  jpeg_start_compress(&info, TRUE);
  Bytes row(side, 100);
  for (unsigned y = 0; y < side; ++y) {
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&info, &rows, 1);
  }
  jpeg_finish_compress(&info);
  Bytes file(bytes, bytes + count);
  jpeg_destroy_compress(&info);
  std::free(bytes);
  return file;
}

TEST(ImageReader, RefusesScansThatPassOverTooManyPixels) {
  const auto check = [](const Bytes& file) {
    ImageReader reader;
    reader.open(stored(file), 3);
    reader.check();
  };
  EXPECT_NO_THROW(check(jpeg_of_many_scans(200)));
  const Bytes large = jpeg_of_many_scans(3000);
  EXPECT_LT(large.size(), 200'000U);
  EXPECT_THAT([&] { check(large); }, ThrowsMessage<DataError>(HasSubstr("more than 238 scans of 3000 x 3000 pixels")));
}

TEST(EncodeJpeg, KeepsTheImage) {
  for (const int channels : {1, 3}) {
    Bytes pixels;
    for (std::int64_t i = 0; i < 40 * 56; ++i)
      for (int c = 0; c < channels; ++c) pixels.push_back(static_cast<std::uint8_t>(30 + 2 * (i / 56) + i % 56));
    const Bytes file = encode_jpeg(test::view(pixels, 40, 56, channels), 95);
    const Bytes back = decoded(stored(file));
    for (std::size_t i = 0; i < back.size(); ++i)
      ASSERT_NEAR(back[i], pixels[channels == 3 ? i : i / 3], 3) << channels;
  }
}

}  // namespace
}  // namespace credence
