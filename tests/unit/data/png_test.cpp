// PNGs made here chunk by chunk: the samples that were put in come out, whatever other chunks say.
#include "credence/data/png.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "unit/data/files.h"

namespace credence {
namespace {

using test::big_endian;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const auto checksum = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return big_endian(static_cast<std::uint32_t>(data.size())) + body + big_endian(static_cast<std::uint32_t>(checksum));
}

/// Stored as it is: libpng takes no very short profile.
std::string deflated(const std::string& bytes) {
  std::string packed(compressBound(bytes.size()), '\0');
  uLongf size = packed.size();
  compress2(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(),
            0);
  packed.resize(size);
  return packed;
}

struct Format {
  std::uint32_t width = 8, height = 8;
  char depth = 8, color = 0;  // gray
};

/// Of rows without their filter bytes, after chunks of any kind.
std::string png(const Format& format, const std::vector<std::string>& rows, const std::string& more = "") {
  std::string data;
  for (const std::string& row : rows) data += '\0' + row;
  const std::string header =
      big_endian(format.width) + big_endian(format.height) + std::string{format.depth, format.color, '\0', '\0', '\0'};
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + more + chunk("IDAT", deflated(data)) + chunk("IEND", "");
}

/// RGB of every pixel, without the fourth byte.
std::vector<int> decoded(const std::string& file) {
  std::vector<std::uint8_t> pixels;
  const PixelView view = decode_png(std::span(reinterpret_cast<const std::uint8_t*>(file.data()), file.size()), pixels);
  std::vector<int> colors;
  for (std::int64_t i = 0; i < view.height * view.width; ++i)
    for (std::int64_t c = 0; c < 3; ++c) colors.push_back(view.data[4 * i + c]);
  return colors;
}

struct Gray {
  Gray() {
    for (int y = 0; y < 8; ++y) {
      rows.emplace_back();
      for (int x = 0; x < 8; ++x) {
        const int sample = 3 * (8 * y + x) + 17;
        rows.back() += static_cast<char>(sample);
        pixels.insert(pixels.end(), 3, sample);
      }
    }
  }
  std::vector<std::string> rows;
  std::vector<int> pixels;
};

/// The header of an ICC profile of RGB, without tags.
std::string rgb_profile() {
  std::string profile = big_endian(132) + std::string("none\2\0\0\0mntrRGB XYZ ", 20) + std::string(108, '\0');
  profile.replace(36, 4, "acsp");
  profile.replace(68, 12, big_endian(0xf6d6) + big_endian(0x10000) + big_endian(0xd32d));
  return profile;
}

TEST(Png, OtherChunksChangeNoSample) {
  const Gray gray;
  std::string damaged = chunk("tEXt", std::string("Title\0a picture", 15));
  damaged.back() ^= 1;
  const std::string chunks[] = {"",
                                chunk("iCCP", std::string("sRGB\0\0", 6) + deflated(rgb_profile())),
                                chunk("iCCP", std::string("broken\0\0", 8) + deflated("no profile")),
                                chunk("gAMA", big_endian(100000)),
                                chunk("gAMA", big_endian(0)),
                                chunk("cHRM", std::string(32, '\7')),
                                damaged};
  for (const std::string& more : chunks)
    EXPECT_THAT(decoded(png({}, gray.rows, more)), ElementsAreArray(gray.pixels)) << more.substr(0, 40);
}

TEST(Png, EveryFormatBecomesColours) {
  EXPECT_THAT(decoded(png({4, 1, 2, 0}, {"\x1b"}, chunk("tRNS", std::string("\0\2", 2)))),
              ElementsAreArray({0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255}))
      << "two bits, and one gray that is transparent";
  EXPECT_THAT(decoded(png({2, 1, 8, 3}, {std::string("\1\0", 2)}, chunk("PLTE", "abcdef") + chunk("tRNS", {'\0'}))),
              ElementsAreArray({'d', 'e', 'f', 'a', 'b', 'c'}))
      << "a palette, and one colour of it that is transparent";
  EXPECT_THAT(decoded(png({1, 1, 16, 2}, {std::string("\x00\x80\x12\xff\xff\xff", 6)})), ElementsAreArray({0, 19, 255}))
      << "sixteen bits, divided by 257 and rounded";
  EXPECT_THAT(decoded(png({1, 1, 8, 6}, {std::string("rgb\0", 4)})), ElementsAreArray({'r', 'g', 'b'}));
}

TEST(Png, DamagedPixelsAreRefused) {
  const Gray gray;
  const auto refused = ThrowsMessage<DataError>(HasSubstr("truncated or corrupt"));
  const std::string whole = png({}, gray.rows);
  const std::size_t data = whole.find("IDAT");
  for (std::size_t at = data + 4; at + 12 < whole.size(); ++at) {  // the checksum, too
    std::string file = whole;
    file[at] ^= 1;
    EXPECT_THAT([&] { decoded(file); }, refused) << at;
    EXPECT_THAT([&] { decoded(whole.substr(0, at)); }, refused) << at;
  }
  EXPECT_THAT([&] { decoded(png({}, {gray.rows[0], gray.rows[1]})); }, refused) << "rows are missing";
  EXPECT_THAT([&] { decoded(png({2, 1, 8, 3}, {"\1\1"})); }, refused) << "without a palette";
}

}  // namespace
}  // namespace credence
