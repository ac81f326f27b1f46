#pragma once

#include <memory>
#include <string>
#include <vector>

#include "credence/data/data_source.h"

namespace credence {

/// One way in which images differ from those that a network was trained on, at one of five severities (Hendrycks and
/// Dietterich 2019). Parameters are those of ImageNet-C, and of CIFAR-10-C for images of at most 64 pixels a side.
struct Corruption {
  enum class Kind : std::uint8_t { noise, blur, contrast, brightness, jpeg, pixelate };
  Kind kind = Kind::noise;
  int severity = 1;  // 1 to 5

  bool operator==(const Corruption&) const = default;
};
inline constexpr int kSeverities = 5;
std::string name_of(Corruption::Kind kind);

/// "blur:3", "blur" (its five severities), "all" (every kind at every severity), or several after each other with
/// commas. UserError names what is allowed.
std::vector<Corruption> parse_corruptions(const std::string& spec);

/// The images of `source`, corrupted and rounded to whole pixels of 8 bits again, then normalised as before. The same
/// for every run, rank, network and number of threads, which read() uses beside its own: noise is a function of the
/// example alone. `source` must live as long. UserError where examples are no images.
std::unique_ptr<DataSource> corrupted(const DataSource& source, const Corruption& corruption, int threads = 1);

}  // namespace credence
