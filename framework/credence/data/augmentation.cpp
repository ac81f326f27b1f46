#include "credence/data/augmentation.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/kernels/noise.h"

namespace credence {
namespace {

struct Plane {
  std::int64_t height;
  std::int64_t width;
};

/// One channel of one image. `top` and `left` say where in `from` the crop begins; it may lie partly outside.
void change_plane(const float* from, Plane plane, const CropAndFlip& change, float black, float* to) {
  const auto [height, width] = plane;
  const std::int64_t before = std::clamp<std::int64_t>(-change.left, 0, width);  // black pixels of a row
  const std::int64_t after = std::clamp<std::int64_t>(change.left, 0, width);
  const std::int64_t kept = width - before - after;
  for (std::int64_t y = 0; y < height; ++y, to += width) {
    const std::int64_t source = y + change.top;
    if (source < 0 || source >= height) {
      std::fill_n(to, width, black);
      continue;
    }
    const float* row = from + source * width + after;
    std::fill_n(change.flip ? to + width - before : to, before, black);
    std::fill_n(change.flip ? to : to + width - after, after, black);
    if (change.flip)
      std::reverse_copy(row, row + kept, to + after);
    else
      std::copy_n(row, kept, to + before);
  }
}

constexpr const char* kForms = "crop:PIXELS, flip, resized-crop[:LEAST_AREA], jitter:STRENGTH";
const std::vector<std::string> kParts = {"none", "crop", "flip", "resized-crop", "jitter"};

Augmentation::Jitter parse_jitter(const std::string& given) {
  const std::vector<std::string> parts = credence::split(given, '/');
  require(parts.size() == 1 || parts.size() == 4,
          "jitter:{} is not understood: it is jitter:STRENGTH or jitter:BRIGHTNESS/CONTRAST/SATURATION/HUE", given);
  std::vector<double> values;
  for (const std::string& part : parts) values.push_back(parse_number(part, "a strength of an augmentation's jitter"));
  if (values.size() == 1) values = {values[0], values[0], values[0], 0.0};
  require(*std::ranges::min_element(values) >= 0.0 && values[3] <= 0.5 && *std::ranges::max_element(values) > 0.0,
          "jitter:{}: strengths are zero or more, that of the hue is at most 0.5", given);
  return {values[0], values[1], values[2], values[3]};
}

/// Two or more parts may not say the same thing twice.
void parse_part(std::string_view part, Augmentation& result) {
  const Spec spec = parse_spec(part);
  const std::string& given = spec.arguments;
  const bool has_arguments = part.find(':') != std::string_view::npos;
  if (spec.name == "flip" && !has_arguments) {
    require(!result.flip, "an augmentation flips once");
    result.flip = true;
  } else if (spec.name == "crop") {
    require(result.crop_padding == 0, "an augmentation crops once");
    const std::int64_t padding = parse_integer(given, "the padding of an augmentation's crop:PIXELS");
    require(padding > 0 && padding < 1 << 20, "an augmentation's crop:PIXELS needs a positive number of pixels, not {}",
            given);
    result.crop_padding = static_cast<int>(padding);
  } else if (spec.name == "resized-crop") {
    require(!result.resized_crop, "an augmentation crops once");
    result.resized_crop = Augmentation::ResizedCrop{};
    if (has_arguments) result.resized_crop->least_area = parse_number(given, "the least area of a resized-crop");
    require(result.resized_crop->least_area > 0.0 && result.resized_crop->least_area <= 1.0,
            "the least area of a resized-crop is a fraction of the image's, above 0 and at most 1, not {}", given);
  } else if (spec.name == "jitter") {
    require(!result.jitter, "an augmentation has one jitter");
    result.jitter = parse_jitter(given);
  } else {
    refuse_unknown("augmentation", spec.name, kParts);
  }
}

}  // namespace

Augmentation Augmentation::parse(const std::string& spec) {
  Augmentation result;
  if (spec == "none") return result;
  require(!spec.empty() && spec.back() != ',', "unknown augmentation '{}': it is none, or one or more of {}", spec,
          kForms);
  for (const std::string& part : credence::split(spec, ',')) parse_part(part, result);
  require(!result.resized_crop || result.crop_padding == 0,
          "the augmentation '{}' crops twice; use crop or resized-crop", spec);
  return result;
}

void check_augmentation(const Augmentation& augmentation, const ExampleSpec& spec, bool decoded) {
  if (!augmentation.enabled()) return;
  require(spec.input_shape.size() == 3,
          "augmentation by crop or flip needs images of [channels, height, width], but an example of this data is [{}]",
          fmt::join(spec.input_shape, ", "));
  const std::int64_t smaller = std::min(spec.input_shape[1], spec.input_shape[2]);
  require(augmentation.crop_padding < smaller, "a crop with {} pixels of padding needs larger images than {} x {}",
          augmentation.crop_padding, spec.input_shape[1], spec.input_shape[2]);
  require(decoded || (!augmentation.resized_crop && !augmentation.jitter),
          "this data takes the augmentations crop and flip only; resized-crop and jitter are for images, cifar10, "
          "cifar100 and pack");
  require(!augmentation.jitter || spec.input_shape[0] == 3, "jitter changes colours, and these images have {} channel",
          spec.input_shape[0]);
}

ExampleNoise::ExampleNoise(std::uint64_t seed, std::int64_t epoch, std::int64_t example)
    : key_(kernels::NoiseStream{.seed = seed, .purpose = kernels::Purpose::augmentation}.key()) {
  const auto n = static_cast<std::uint64_t>(example);
  const auto e = static_cast<std::uint64_t>(epoch);
  counter_ = {static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(e), static_cast<std::uint32_t>(n >> 32),
              static_cast<std::uint32_t>(e >> 32)};
}

kernels::Counter ExampleNoise::block(std::uint32_t number) const {
  kernels::Counter counter = counter_;
  counter[3] ^= number << 16;  // epochs stay far below 2^48
  return kernels::philox4x32_10(counter, key_);
}

CropAndFlip draw_crop_and_flip(const Augmentation& augmentation, const ExampleNoise& noise) {
  const kernels::Counter words = noise.block(0);
  // Some offsets are likelier than others by (2 * padding + 1) / 2^32 at most: below anything that can be noticed.
  const auto offsets = 2 * static_cast<std::uint64_t>(augmentation.crop_padding) + 1;
  return {static_cast<std::int64_t>((words[0] * offsets) >> 32) - augmentation.crop_padding,
          static_cast<std::int64_t>((words[1] * offsets) >> 32) - augmentation.crop_padding,
          augmentation.flip && (words[2] >> 31) != 0};
}

void augment(const Augmentation& augmentation, std::uint64_t seed, const ExampleSpec& spec,
             const SamplingPlan::Selection& selection, Batch& batch) {
  if (!augmentation.enabled()) return;
  const std::int64_t channels = spec.input_shape[0];
  const Plane plane{spec.input_shape[1], spec.input_shape[2]};
  const std::int64_t elements = spec.input_elements();
  std::vector<float> black(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) black[static_cast<std::size_t>(c)] = spec.normalization.apply(0.0, c);

  std::vector<float> original(static_cast<std::size_t>(elements));
  for (std::size_t row = 0; row < selection.examples.size(); ++row) {
    const CropAndFlip change =
        draw_crop_and_flip(augmentation, ExampleNoise(seed, selection.epochs[row], selection.examples[row]));
    if (change.top == 0 && change.left == 0 && !change.flip) continue;
    float* const image = batch.inputs.data() + static_cast<std::int64_t>(row) * elements;
    std::copy_n(image, elements, original.data());
    for (std::int64_t c = 0; c < channels; ++c) {
      const std::int64_t offset = c * plane.height * plane.width;
      change_plane(original.data() + offset, plane, change, black[static_cast<std::size_t>(c)], image + offset);
    }
  }
}

}  // namespace credence
