#include "credence/data/augmentation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"

namespace credence {
namespace {

/// Where the crop of one image begins, in pixels of the padded image, and whether it is flipped.
struct Change {
  std::int64_t top;
  std::int64_t left;
  bool flip;
};

Change draw_change(const Augmentation& augmentation, kernels::Key key, std::int64_t epoch, std::int64_t example) {
  const auto n = static_cast<std::uint64_t>(example);
  const auto e = static_cast<std::uint64_t>(epoch);
  const kernels::Counter words =
      kernels::philox4x32_10({static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(e),
                              static_cast<std::uint32_t>(n >> 32), static_cast<std::uint32_t>(e >> 32)},
                             key);
  // Some offsets are likelier than others by (2 * padding + 1) / 2^32 at most: below anything that can be noticed.
  const auto offsets = 2 * static_cast<std::uint64_t>(augmentation.crop_padding) + 1;
  return {static_cast<std::int64_t>((words[0] * offsets) >> 32), static_cast<std::int64_t>((words[1] * offsets) >> 32),
          augmentation.flip && (words[2] >> 31) != 0};
}

struct Plane {
  std::int64_t height;
  std::int64_t width;
};

/// One channel of one image. `top` and `left` say where in `from` the crop begins; it may lie partly outside.
void change_plane(const float* from, Plane plane, const Change& change, float black, float* to) {
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

}  // namespace

Augmentation Augmentation::parse(const std::string& spec) {
  Augmentation result;
  if (spec == "none") return result;
  bool valid = !spec.empty();
  std::string_view rest = spec;
  while (valid) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    if (part == "flip" && !result.flip) {
      result.flip = true;
    } else if (part.starts_with("crop:") && result.crop_padding == 0) {
      const char* const end = part.data() + part.size();
      const auto parsed = std::from_chars(part.data() + 5, end, result.crop_padding);
      valid = parsed.ec == std::errc() && parsed.ptr == end && result.crop_padding > 0;
    } else {
      valid = false;
    }
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  require(valid, "unknown augmentation '{}': it is one of none, flip, crop:PIXELS and crop:PIXELS,flip", spec);
  return result;
}

void check_augmentation(const Augmentation& augmentation, const ExampleSpec& spec) {
  if (!augmentation.enabled()) return;
  require(spec.input_shape.size() == 3,
          "augmentation by crop or flip needs images of [channels, height, width], but an example of this data is [{}]",
          fmt::join(spec.input_shape, ", "));
  const std::int64_t smaller = std::min(spec.input_shape[1], spec.input_shape[2]);
  require(augmentation.crop_padding < smaller, "a crop with {} pixels of padding needs larger images than {} x {}",
          augmentation.crop_padding, spec.input_shape[1], spec.input_shape[2]);
}

void augment(const Augmentation& augmentation, std::uint64_t seed, const ExampleSpec& spec,
             const SamplingPlan::Selection& selection, Batch& batch) {
  if (!augmentation.enabled()) return;
  const kernels::Key key = kernels::NoiseStream{.seed = seed, .purpose = kernels::Purpose::augmentation}.key();
  const std::int64_t channels = spec.input_shape[0];
  const Plane plane{spec.input_shape[1], spec.input_shape[2]};
  const std::int64_t elements = spec.input_elements();
  std::vector<float> black(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) black[static_cast<std::size_t>(c)] = spec.normalization.apply(0.0, c);

  std::vector<float> original(static_cast<std::size_t>(elements));
  for (std::size_t row = 0; row < selection.examples.size(); ++row) {
    Change change = draw_change(augmentation, key, selection.epochs[row], selection.examples[row]);
    change.top -= augmentation.crop_padding;
    change.left -= augmentation.crop_padding;
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
