#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "credence/data/data_source.h"
#include "credence/data/image.h"
#include "credence/data/sampling.h"
#include "credence/kernels/noise.h"

namespace credence {

/// How images are varied in training, a pure function of (seed, epoch, example). In this order:
/// resized crop: a box of random area and proportions, resized to the image size (torchvision's RandomResizedCrop);
/// crop: padded by so many black pixels (0 before normalisation), every offset in [0, 2 * padding]^2 alike;
/// flip: half of the images, horizontally;
/// jitter: brightness, contrast, saturation, hue in a random order (torchvision's ColorJitter).
/// Spec: "none", or parts with commas between them: "crop:4", "flip", "resized-crop[:LEAST_AREA]",
/// "jitter:STRENGTH" (of the first three) or "jitter:BRIGHTNESS/CONTRAST/SATURATION/HUE".
struct Augmentation {
  int crop_padding = 0;
  bool flip = false;

  struct ResizedCrop {
    double least_area = 0.08;  // of the image's; up to all of it, width / height from 3/4 to 4/3
    bool operator==(const ResizedCrop&) const = default;
  };
  std::optional<ResizedCrop> resized_crop = {};

  struct Jitter {
    double brightness = 0.0;  // factors are uniform in [max(0, 1 - this), 1 + this]
    double contrast = 0.0;
    double saturation = 0.0;
    double hue = 0.0;  // uniform in [-this, this], of a full turn; at most 1/2
    bool operator==(const Jitter&) const = default;
  };
  std::optional<Jitter> jitter = {};

  static Augmentation parse(const std::string& spec);  // UserError names what is allowed
  bool enabled() const { return flip || crop_padding > 0 || resized_crop || jitter; }
};

/// UserError unless examples of this kind can be augmented so: images [channels, height, width] larger than the
/// padding; `decoded`: images that are decoded when they are read, which alone can be cropped to another size or have
/// their colours changed.
void check_augmentation(const Augmentation& augmentation, const ExampleSpec& spec, bool decoded = false);

/// The random numbers of one example in one epoch: Philox blocks, of which 0 is that of crop and flip.
class ExampleNoise {
 public:
  ExampleNoise(std::uint64_t seed, std::int64_t epoch, std::int64_t example);
  kernels::Counter block(std::uint32_t number) const;

 private:
  kernels::Key key_;
  kernels::Counter counter_;
};

/// Where a crop of a padded image begins, in pixels of the image (negative: in the padding), and whether it is flipped.
struct CropAndFlip {
  std::int64_t top = 0;
  std::int64_t left = 0;
  bool flip = false;
};
CropAndFlip draw_crop_and_flip(const Augmentation& augmentation, const ExampleNoise& noise);

/// Augments `batch`, which holds the selected examples in order as numbers: crop and flip.
void augment(const Augmentation& augmentation, std::uint64_t seed, const ExampleSpec& spec,
             const SamplingPlan::Selection& selection, Batch& batch);

}  // namespace credence
