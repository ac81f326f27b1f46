#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace credence {

/// Larger images are refused before memory is asked for: 2^27 pixels, half a gigabyte decoded.
inline constexpr std::int64_t kMostPixels = std::int64_t{1} << 27;

/// Memory that a thread keeps for its next image; what a larger image took is given back.
inline constexpr std::size_t kMostKeptBytes = std::size_t{64} << 20;
inline void release_large(std::vector<std::uint8_t>& bytes) {
  if (bytes.capacity() > kMostKeptBytes) std::vector<std::uint8_t>().swap(bytes);
}

struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
  bool operator==(const ImageSize&) const = default;
};

/// Whole pixels of an image.
struct Box {
  std::int64_t top = 0;
  std::int64_t left = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  bool operator==(const Box&) const = default;
};

/// Pixels [height, width, channels] that somebody else owns; a row begins every `row_bytes`.
struct PixelView {
  const std::uint8_t* data = nullptr;
  std::int64_t height = 0;
  std::int64_t width = 0;
  int channels = 3;  // of 4 the last says nothing
  std::int64_t row_bytes = 0;
};

/// How an image is kept. The numbers are part of the packed format: never renumber.
enum class Encoding : std::uint8_t { raw = 0, jpeg = 1, png = 2 };
std::string_view name_of(Encoding encoding);

/// By the first bytes, whatever a file is called. DataError where they are neither JPEG nor PNG.
Encoding sniff_encoding(std::span<const std::uint8_t> bytes);

/// DataError for no pixels, or more than kMostPixels.
void check_size(const ImageSize& size);

}  // namespace credence
