#pragma once

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <vector>

namespace credence {

/// What the pixels of an image, 0 to 255, become: (pixel / 255 - mean) / deviation, one value per channel.
/// Empty: pixel / 255.
struct Normalization {
  std::vector<double> mean;
  std::vector<double> deviation;

  bool empty() const noexcept { return mean.empty() && deviation.empty(); }
  /// One pixel, computed in double and rounded once.
  float apply(double pixel, std::int64_t channel) const;
  bool operator==(const Normalization&) const = default;
};

/// What every example of a source looks like. Neither classes nor targets: inputs to predict from.
struct ExampleSpec {
  std::vector<std::int64_t> input_shape;        // [features] or [channels, height, width]
  std::int64_t classes = 0;                     // 0: real-valued targets
  std::int64_t target_size = 0;                 // real values per example; 0 for class labels
  std::vector<std::string> class_names;         // empty: unnamed
  Normalization normalization;                  // of images; the digest depends neither on it nor on the names
  std::vector<std::string> feature_names = {};  // of a table's columns, lower case; empty: unnamed

  std::int64_t input_elements() const;
};

/// Examples in host memory, row-major. One of inputs and pixels is filled, at most one of labels and targets.
struct Batch {
  std::int64_t size = 0;      // B
  std::vector<float> inputs;  // [B, input_shape...]; images scaled and normalised
  // [B, height, width, channels], where input_shape is [channels, height, width].
  std::pmr::vector<std::uint8_t> pixels;
  std::vector<std::int64_t> labels;  // [B]
  std::vector<float> targets;        // [B, target_size]
};

/// Images that came as pixels, scaled and normalised: [B, channels, height, width].
void normalize(const ExampleSpec& spec, const Batch& batch, float* to);
/// The same in the place of the pixels; nothing where there are none.
void normalize(const ExampleSpec& spec, Batch& batch);

class ImageSource;

/// A finite set of examples, the same on every rank. Reading is safe from several threads.
class DataSource {
 public:
  virtual ~DataSource() = default;

  std::int64_t size() const noexcept { return size_; }  // N
  const ExampleSpec& spec() const noexcept { return spec_; }
  /// Hexadecimal digest of the content: what a resumed run compares.
  const std::string& digest() const noexcept { return digest_; }

  /// Fills `batch` with the examples in the order given, reusing its memory. DataError names file and record,
  /// InternalError an index outside [0, N).
  void read(std::span<const std::int64_t> examples, Batch& batch) const;

  /// Itself, where examples are images of bytes that are decoded when they are read; else null.
  virtual const ImageSource* as_images() const noexcept { return nullptr; }

 protected:
  DataSource() = default;
  std::int64_t size_ = 0;
  ExampleSpec spec_;
  std::string digest_;

 private:
  /// `batch` is already sized.
  virtual void fill(std::span<const std::int64_t> examples, Batch& batch) const = 0;
};

}  // namespace credence
