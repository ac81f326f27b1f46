#pragma once

#include <cstdint>
#include <string>

#include "credence/data/data_source.h"
#include "credence/data/sampling.h"

namespace credence {

/// Random crop (padded by so many pixels) and horizontal flip of images, a pure function of (seed, epoch, example).
/// Padding is black: what a pixel of 0 becomes by the source's normalisation, as where images are padded before they
/// are normalised. The crop comes first, every offset in [0, 2 * padding]^2 alike; then half of the images are flipped.
/// Spec: "none", "flip", "crop:4", "crop:4,flip".
struct Augmentation {
  int crop_padding = 0;
  bool flip = false;

  static Augmentation parse(const std::string& spec);  // UserError names what is allowed
  bool enabled() const { return flip || crop_padding > 0; }
};

/// UserError unless examples of this kind can be augmented so: images [channels, height, width] larger than the
/// padding.
void check_augmentation(const Augmentation& augmentation, const ExampleSpec& spec);

/// Augments `batch`, which holds the selected examples in order.
void augment(const Augmentation& augmentation, std::uint64_t seed, const ExampleSpec& spec,
             const SamplingPlan::Selection& selection, Batch& batch);

}  // namespace credence
