#include "credence/data/image_augmentation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace credence {
namespace {

constexpr std::uint32_t kCropBlocks = 1;     // and the nine behind
constexpr std::uint32_t kJitterBlocks = 11;  // and the next
constexpr int kAttempts = 10;
constexpr double kLeastRatio = 3.0 / 4.0;
constexpr double kLargestRatio = 4.0 / 3.0;

/// Uniform in [low, high).
double uniform(std::uint32_t word, double low, double high) {
  return low + (high - low) * (static_cast<double>(word) * 0x1p-32);
}

/// Uniform over [0, bound), but for bound / 2^32.
std::int64_t below(std::uint32_t word, std::int64_t bound) {
  return static_cast<std::int64_t>((static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(bound)) >> 32);
}

Box middle(const ImageSize& image) {
  const auto height = static_cast<double>(image.height);
  const auto width = static_cast<double>(image.width);
  Box box{0, 0, image.height, image.width};
  if (width / height < kLeastRatio)
    box.height = static_cast<std::int64_t>(std::nearbyint(width / kLeastRatio));
  else if (width / height > kLargestRatio)
    box.width = static_cast<std::int64_t>(std::nearbyint(height * kLargestRatio));
  box.top = (image.height - box.height) / 2;
  box.left = (image.width - box.width) / 2;
  return box;
}

std::uint8_t truncated(float value) {
  return static_cast<std::uint8_t>(std::clamp(value, 0.0F, 255.0F));
}

/// As torchvision's on bytes: weights of ITU-R 601-2, cut to a whole number.
float gray(const std::uint8_t* p) {
  return static_cast<float>(static_cast<int>(0.2989F * p[0] + 0.587F * p[1] + 0.114F * p[2]));
}

std::uint8_t blended(std::uint8_t value, float other, float factor) {
  return truncated(factor * value + (1.0F - factor) * other);
}

/// All pixels with one value, so that there are 256 results.
void blend_all(std::uint8_t* begin, std::uint8_t* end, float other, float factor) {
  std::array<std::uint8_t, 256> results;
  for (std::size_t value = 0; value < results.size(); ++value)
    results[value] = blended(static_cast<std::uint8_t>(value), other, factor);
  for (; begin != end; ++begin) *begin = results[*begin];
}

/// Turns the hue of a colour in [0, 1]^3, by way of hue, saturation and value.
void turn_hue(std::array<float, 3>& rgb, float turn) {
  const auto [r, g, b] = rgb;
  const float value = std::max({r, g, b});
  const float range = value - std::min({r, g, b});
  if (range == 0.0F) return;  // gray has no hue
  float hue = 0.0F;
  if (value == r)
    hue = (g - b) / range;
  else if (value == g)
    hue = 2.0F + (b - r) / range;
  else
    hue = 4.0F + (r - g) / range;
  hue = hue / 6.0F + 1.0F + turn;
  hue -= std::floor(hue);
  const float saturation = range / value;
  const float sixth = std::floor(hue * 6.0F);
  const float rest = hue * 6.0F - sixth;
  const float p = std::clamp(value * (1.0F - saturation), 0.0F, 1.0F);
  const float q = std::clamp(value * (1.0F - saturation * rest), 0.0F, 1.0F);
  const float t = std::clamp(value * (1.0F - saturation * (1.0F - rest)), 0.0F, 1.0F);
  switch (static_cast<int>(sixth) % 6) {
    case 0:
      rgb = {value, t, p};
      break;
    case 1:
      rgb = {q, value, p};
      break;
    case 2:
      rgb = {p, value, t};
      break;
    case 3:
      rgb = {p, q, value};
      break;
    case 4:
      rgb = {t, p, value};
      break;
    default:
      rgb = {value, p, q};
  }
}

void adjust_hue(std::uint8_t* pixel, float turn) {
  std::array<float, 3> rgb = {pixel[0] / 255.0F, pixel[1] / 255.0F, pixel[2] / 255.0F};
  turn_hue(rgb, turn);
  for (std::size_t c = 0; c < 3; ++c) pixel[c] = static_cast<std::uint8_t>(rgb[c] * 255.999F);
}

}  // namespace

Box draw_resized_crop(const Augmentation::ResizedCrop& law, const ExampleNoise& noise, const ImageSize& image) {
  const double area = static_cast<double>(image.height) * static_cast<double>(image.width);
  for (std::uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    const kernels::Counter words = noise.block(kCropBlocks + attempt);
    const double wanted = area * uniform(words[0], law.least_area, 1.0);
    const double ratio = std::exp(uniform(words[1], std::log(kLeastRatio), std::log(kLargestRatio)));
    const auto width = static_cast<std::int64_t>(std::nearbyint(std::sqrt(wanted * ratio)));
    const auto height = static_cast<std::int64_t>(std::nearbyint(std::sqrt(wanted / ratio)));
    if (width < 1 || height < 1 || width > image.width || height > image.height) continue;
    return {below(words[2], image.height - height + 1), below(words[3], image.width - width + 1), height, width};
  }
  return middle(image);
}

void crop_and_flip(const CropAndFlip& change, const ImageSize& size, int channels, std::uint8_t* pixels,
                   std::vector<std::uint8_t>& original) {
  if (change.top == 0 && change.left == 0 && !change.flip) return;
  original.assign(pixels, pixels + size.height * size.width * channels);
  for (std::int64_t y = 0; y < size.height; ++y)
    for (std::int64_t x = 0; x < size.width; ++x, pixels += channels) {
      const std::int64_t row = y + change.top;
      const std::int64_t column = (change.flip ? size.width - 1 - x : x) + change.left;
      if (row < 0 || row >= size.height || column < 0 || column >= size.width)
        std::fill_n(pixels, channels, std::uint8_t{0});
      else
        std::copy_n(original.data() + (row * size.width + column) * channels, channels, pixels);
    }
}

JitterDraw draw_jitter(const Augmentation::Jitter& law, const ExampleNoise& noise) {
  const kernels::Counter factors = noise.block(kJitterBlocks);
  const kernels::Counter places = noise.block(kJitterBlocks + 1);
  const auto around_one = [](std::uint32_t word, double strength) {
    return uniform(word, std::max(0.0, 1.0 - strength), 1.0 + strength);
  };
  JitterDraw draw;
  draw.brightness = around_one(factors[0], law.brightness);
  draw.contrast = around_one(factors[1], law.contrast);
  draw.saturation = around_one(factors[2], law.saturation);
  draw.hue = uniform(factors[3], -law.hue, law.hue);
  for (int left = 4; left > 1; --left)
    std::swap(draw.order[left - 1], draw.order[below(places[static_cast<std::size_t>(left - 1)], left)]);
  return draw;
}

void jitter(const JitterDraw& draw, std::int64_t count, std::uint8_t* pixels) {
  std::uint8_t* const end = pixels + 3 * count;
  for (const int change : draw.order) {
    if (change == 0 && draw.brightness != 1.0) {
      blend_all(pixels, end, 0.0F, static_cast<float>(draw.brightness));
    } else if (change == 1 && draw.contrast != 1.0) {
      double sum = 0.0;
      for (const std::uint8_t* p = pixels; p != end; p += 3) sum += static_cast<double>(gray(p));
      const auto mean = static_cast<float>(sum / static_cast<double>(count));
      blend_all(pixels, end, mean, static_cast<float>(draw.contrast));
    } else if (change == 2 && draw.saturation != 1.0) {
      const auto factor = static_cast<float>(draw.saturation);
      for (std::uint8_t* p = pixels; p != end; p += 3) {
        const float other = gray(p);
        for (int c = 0; c < 3; ++c) p[c] = blended(p[c], other, factor);
      }
    } else if (change == 3 && draw.hue != 0.0) {
      for (std::uint8_t* p = pixels; p != end; p += 3) adjust_hue(p, static_cast<float>(draw.hue));
    }
  }
}

}  // namespace credence
