#include "credence/data/corruption.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/data/jpeg.h"
#include "credence/data/on_threads.h"
#include "credence/kernels/noise.h"

namespace credence {
namespace {

constexpr std::int64_t kSmallImage = 64;

/// One channel of an image or several after each other, pixels 0 to 1.
struct Planes {
  std::int64_t channels, height, width;
  std::vector<double> pixels;  // [C, H, W]

  std::int64_t area() const { return height * width; }
  double* plane(std::int64_t c) { return pixels.data() + c * area(); }
};

struct Parameters {
  const char* name;
  std::array<double, kSeverities> small;  // CIFAR-10-C
  std::array<double, kSeverities> large;  // ImageNet-C
};

/// By Corruption::Kind. Standard deviation of the noise; of the blur in pixels; factor on the distance to the mean;
/// added to the brightness; JPEG quality; factor on the number of pixels a side.
constexpr Parameters kParameters[] = {
    {"noise", {0.04, 0.06, 0.08, 0.09, 0.10}, {0.08, 0.12, 0.18, 0.26, 0.38}},
    {"blur", {0.4, 0.6, 0.7, 0.8, 1.0}, {1.0, 2.0, 3.0, 4.0, 6.0}},
    {"contrast", {0.75, 0.5, 0.4, 0.3, 0.15}, {0.4, 0.3, 0.2, 0.1, 0.05}},
    {"brightness", {0.05, 0.1, 0.15, 0.2, 0.3}, {0.1, 0.2, 0.3, 0.4, 0.5}},
    {"jpeg", {80, 65, 58, 50, 40}, {25, 18, 15, 10, 7}},
    {"pixelate", {0.95, 0.9, 0.85, 0.75, 0.65}, {0.6, 0.5, 0.4, 0.3, 0.25}},
};
constexpr int kKinds = static_cast<int>(std::size(kParameters));

const Parameters& parameters_of(Corruption::Kind kind) {
  return kParameters[static_cast<std::size_t>(kind)];
}

std::uint8_t to_byte(double pixel) {
  return static_cast<std::uint8_t>(std::lround(255.0 * std::clamp(pixel, 0.0, 1.0)));
}

void add_noise(Planes& image, double deviation, std::int64_t example) {
  const kernels::NoiseStream stream{.purpose = kernels::Purpose::corruption,
                                    .step = static_cast<std::uint32_t>(example),
                                    .shard = static_cast<std::uint32_t>(example >> 32)};
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    image.pixels[i] += deviation * static_cast<double>(kernels::standard_normal(stream, static_cast<std::int64_t>(i)));
  }
}

/// A Gaussian cut at four standard deviations; beyond the border the border's pixels.
void blur(Planes& image, double deviation) {
  const std::int64_t radius = std::lround(4.0 * deviation);
  std::vector<double> taps;
  double sum = 0.0;
  for (std::int64_t i = -radius; i <= radius; ++i) {
    const double distance = static_cast<double>(i) / deviation;
    sum += taps.emplace_back(std::exp(-0.5 * distance * distance));
  }
  std::vector<double> line;
  const auto along = [&](double* first, std::int64_t count, std::int64_t stride) {
    line.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) line[static_cast<std::size_t>(i)] = first[i * stride];
    for (std::int64_t i = 0; i < count; ++i) {
      double value = 0.0;
      for (std::int64_t k = -radius; k <= radius; ++k) {
        const std::int64_t from = std::clamp<std::int64_t>(i + k, 0, count - 1);
        value += taps[static_cast<std::size_t>(k + radius)] * line[static_cast<std::size_t>(from)];
      }
      first[i * stride] = value / sum;
    }
  };
  for (std::int64_t c = 0; c < image.channels; ++c) {
    double* const plane = image.plane(c);
    for (std::int64_t y = 0; y < image.height; ++y) along(plane + y * image.width, image.width, 1);
    for (std::int64_t x = 0; x < image.width; ++x) along(plane + x, image.height, image.width);
  }
}

void flatten_contrast(Planes& image, double factor) {
  for (std::int64_t c = 0; c < image.channels; ++c) {
    double* const plane = image.plane(c);
    double mean = 0.0;
    for (std::int64_t i = 0; i < image.area(); ++i) mean += plane[i];
    mean /= static_cast<double>(image.area());
    for (std::int64_t i = 0; i < image.area(); ++i) plane[i] = (plane[i] - mean) * factor + mean;
  }
}

/// Adds to the value of HSV, hue and saturation kept.
void brighten(Planes& image, double amount) {
  for (std::int64_t i = 0; i < image.area(); ++i) {
    double value = 0.0;
    for (std::int64_t c = 0; c < image.channels; ++c) value = std::max(value, image.plane(c)[i]);
    const double brighter = std::clamp(value + amount, 0.0, 1.0);
    for (std::int64_t c = 0; c < image.channels; ++c) {
      double& pixel = image.plane(c)[i];
      pixel = value > 0.0 ? pixel * (brighter / value) : brighter;
    }
  }
}

void compress(Planes& image, double quality) {
  const auto channels = static_cast<int>(image.channels);
  require(channels == 1 || channels == 3, "--corrupt jpeg is for images of 1 or 3 channels, not {}", channels);
  std::vector<std::uint8_t> bytes(image.pixels.size());
  for (std::int64_t i = 0; i < image.area(); ++i) {
    for (std::int64_t c = 0; c < image.channels; ++c) {
      bytes[static_cast<std::size_t>(i * image.channels + c)] = to_byte(image.plane(c)[i]);
    }
  }
  const std::vector<std::uint8_t> encoded = encode_jpeg(
      {bytes.data(), image.height, image.width, channels, image.width * channels}, static_cast<int>(quality));
  JpegDecoder decoder;
  decoder.open(encoded);
  const auto region = decoder.decode({0, 0, image.height, image.width}, 8);
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      const std::uint8_t* const pixel =
          region.pixels.data + (y - region.top) * region.pixels.row_bytes + (x - region.left) * region.pixels.channels;
      for (std::int64_t c = 0; c < image.channels; ++c) image.plane(c)[y * image.width + x] = pixel[c] / 255.0;
    }
  }
}

/// A side of `to` pixels from one of `from`, whole pixels each: where output pixel i begins.
std::int64_t first_of(std::int64_t i, std::int64_t from, std::int64_t to) {
  return (2 * i * from + to) / (2 * to);
}

/// Shrinks by averaging whole pixels and enlarges again by repeating them.
void pixelate(Planes& image, double factor) {
  const auto size = [&](std::int64_t side) {
    return std::max<std::int64_t>(static_cast<std::int64_t>(static_cast<double>(side) * factor), 1);
  };
  const std::int64_t height = size(image.height), width = size(image.width);
  std::vector<double> small(static_cast<std::size_t>(height * width));
  for (std::int64_t c = 0; c < image.channels; ++c) {
    double* const plane = image.plane(c);
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        const std::int64_t top = first_of(y, image.height, height), bottom = first_of(y + 1, image.height, height);
        const std::int64_t left = first_of(x, image.width, width), right = first_of(x + 1, image.width, width);
        double sum = 0.0;
        for (std::int64_t row = top; row < bottom; ++row) {
          for (std::int64_t column = left; column < right; ++column) sum += plane[row * image.width + column];
        }
        small[static_cast<std::size_t>(y * width + x)] = sum / static_cast<double>((bottom - top) * (right - left));
      }
    }
    for (std::int64_t y = 0; y < image.height; ++y) {
      for (std::int64_t x = 0; x < image.width; ++x) {
        const std::int64_t row = (2 * y + 1) * height / (2 * image.height);
        const std::int64_t column = (2 * x + 1) * width / (2 * image.width);
        plane[y * image.width + x] = small[static_cast<std::size_t>(row * width + column)];
      }
    }
  }
}

void corrupt(Planes& image, const Corruption& corruption, std::int64_t example) {
  const Parameters& known = parameters_of(corruption.kind);
  const bool is_small = std::max(image.height, image.width) <= kSmallImage;
  const double amount = (is_small ? known.small : known.large)[static_cast<std::size_t>(corruption.severity - 1)];
  switch (corruption.kind) {
    case Corruption::Kind::noise:
      return add_noise(image, amount, example);
    case Corruption::Kind::blur:
      return blur(image, amount);
    case Corruption::Kind::contrast:
      return flatten_contrast(image, amount);
    case Corruption::Kind::brightness:
      return brighten(image, amount);
    case Corruption::Kind::jpeg:
      return compress(image, amount);
    case Corruption::Kind::pixelate:
      return pixelate(image, amount);
  }
}

class CorruptedSource final : public DataSource {
 public:
  CorruptedSource(const DataSource& source, const Corruption& corruption, int threads)
      : source_(source), corruption_(corruption), threads_(threads) {
    require(source.spec().input_shape.size() == 3, "--corrupt is for images, and these examples are none");
    size_ = source.size();
    spec_ = source.spec();
    digest_ = fmt::format("{} {}:{}", source.digest(), name_of(corruption.kind), corruption.severity);
  }

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
    source_.read(examples, batch);
    normalize(spec_, batch);
    rows_on_threads(batch.size, threads_, [&](std::int64_t begin, std::int64_t end) {
      const auto& shape = spec_.input_shape;
      Planes image{shape[0], shape[1], shape[2], std::vector<double>(static_cast<std::size_t>(spec_.input_elements()))};
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t example = examples[static_cast<std::size_t>(row)];
        corrupt_values(batch.inputs.data() + row * spec_.input_elements(), example, image);
      }
    });
  }

  /// One example in its place; `image` is where it is worked on.
  void corrupt_values(float* values, std::int64_t example, Planes& image) const {
    for (std::size_t i = 0; i < image.pixels.size(); ++i) {
      image.pixels[i] = pixel_of(values[i], static_cast<std::int64_t>(i) / image.area()) / 255.0;
    }
    corrupt(image, corruption_, example);
    for (std::size_t i = 0; i < image.pixels.size(); ++i) {
      values[i] = spec_.normalization.apply(to_byte(image.pixels[i]), static_cast<std::int64_t>(i) / image.area());
    }
  }

  /// The whole pixel, 0 to 255, that was normalised to `value`.
  double pixel_of(float value, std::int64_t channel) const {
    const Normalization& normal = spec_.normalization;
    const auto c = static_cast<std::size_t>(channel);
    const double pixel = normal.empty() ? value : normal.mean[c] + normal.deviation[c] * static_cast<double>(value);
    return std::round(255.0 * pixel);
  }

  const DataSource& source_;
  Corruption corruption_;
  int threads_;
};

std::vector<Corruption> severities_of(int kind) {
  std::vector<Corruption> all;
  for (int severity = 1; severity <= kSeverities; ++severity) {
    all.push_back({static_cast<Corruption::Kind>(kind), severity});
  }
  return all;
}

}  // namespace

std::string name_of(Corruption::Kind kind) {
  return parameters_of(kind).name;
}

std::vector<Corruption> parse_corruptions(const std::string& spec) {
  std::vector<std::string> known{"all"};
  for (const Parameters& kind : kParameters) known.emplace_back(kind.name);
  std::vector<Corruption> result;
  const auto append = [&](const std::vector<Corruption>& more) {
    for (const Corruption& one : more) {
      if (std::find(result.begin(), result.end(), one) == result.end()) result.push_back(one);
    }
  };
  for (const std::string& part : split(spec, ',')) {
    const auto [name, severity] = parse_spec(part);
    const auto found = std::find(known.begin(), known.end(), name);
    if (found == known.end()) refuse_unknown("corruption", name, known);
    const auto kind = static_cast<int>(found - known.begin()) - 1;
    if (severity.empty()) {
      for (int k = kind < 0 ? 0 : kind; k < (kind < 0 ? kKinds : kind + 1); ++k) append(severities_of(k));
      continue;
    }
    const std::int64_t number = parse_integer(severity, "the severity of a corruption");
    require(kind >= 0 && number >= 1 && number <= kSeverities,
            "--corrupt {}: a corruption has severities 1 to {}, as in blur:3", part, kSeverities);
    append({{static_cast<Corruption::Kind>(kind), static_cast<int>(number)}});
  }
  require(!result.empty(), "--corrupt needs the name of a corruption: blur, blur:3, all");
  return result;
}

std::unique_ptr<DataSource> corrupted(const DataSource& source, const Corruption& corruption, int threads) {
  return std::make_unique<CorruptedSource>(source, corruption, threads);
}

}  // namespace credence
