#pragma once

#include <cstdint>
#include <vector>

#include "credence/data/augmentation.h"
#include "credence/data/image.h"

namespace credence {

/// A box of random area and proportions, by the law of torchvision's RandomResizedCrop: the area is uniform, the
/// logarithm of width / height is uniform from log 3/4 to log 4/3; after ten boxes that do not fit, the largest one in
/// the middle whose proportions are allowed.
Box draw_resized_crop(const Augmentation::ResizedCrop& law, const ExampleNoise& noise, const ImageSize& image);

/// Crops and flips pixels [height, width, channels] in place; padding is black. `original` is memory to be reused.
void crop_and_flip(const CropAndFlip& change, const ImageSize& size, int channels, std::uint8_t* pixels,
                   std::vector<std::uint8_t>& original);

/// Factors and order of one image's jitter.
struct JitterDraw {
  double brightness = 1.0;
  double contrast = 1.0;
  double saturation = 1.0;
  double hue = 0.0;
  int order[4] = {0, 1, 2, 3};  // of brightness, contrast, saturation, hue
};
JitterDraw draw_jitter(const Augmentation::Jitter& law, const ExampleNoise& noise);
/// torchvision's adjust_brightness, _contrast, _saturation and _hue on RGB pixels, in place; factors that change
/// nothing are left out.
void jitter(const JitterDraw& draw, std::int64_t count, std::uint8_t* pixels);

}  // namespace credence
