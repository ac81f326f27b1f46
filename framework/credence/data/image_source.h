#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "credence/data/augmentation.h"
#include "credence/data/data_source.h"
#include "credence/data/image_reader.h"
#include "credence/data/image_store.h"

namespace credence {

/// Images of a store, decoded when they are read, all brought to one size: [channels, height, width], interleaved bytes
/// in batches. As they are: resized so that the short side is `short_side`, then the middle; an image of just the right
/// size is taken as it is.
class ImageSource final : public DataSource {
 public:
  struct Options {
    ImageSize output;
    std::int64_t short_side = 0;  // at least the output's sides
    Normalization normalization;
    std::int64_t max_bad_records = 0;
    int threads = 1;  // of read()
  };
  /// UserError for sizes that make no sense, or a normalisation of other channels.
  ImageSource(std::unique_ptr<ImageStore> store, const Options& options);

  const ImageSource* as_images() const noexcept override { return this; }
  const ImageStore& store() const noexcept { return *store_; }

  /// How training sees an example.
  struct Variation {
    const Augmentation& augmentation;
    std::uint64_t seed;
  };
  /// Rows [begin, end) of `batch`, sized already, with the selected examples, varied. Several threads may fill
  /// different rows of one batch.
  void read_rows(const SamplingPlan::Selection& selection, const Variation& variation, std::int64_t begin,
                 std::int64_t end, Batch& batch) const;
  /// Sizes `batch` for so many examples.
  void prepare(std::int64_t count, Batch& batch) const;

 private:
  struct Example;
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override;
  /// An unreadable record is named, counted and, up to max_bad_records of them, replaced by the next that can be read:
  /// the same one for every rank and every time.
  void read_row(const Example& example, std::int64_t row, Batch& batch) const;
  void decode(std::int64_t record, const Example& example, std::uint8_t* to) const;
  void note_bad(std::int64_t record, const std::string& why) const;
  bool known_bad(std::int64_t record) const;

  std::unique_ptr<ImageStore> store_;
  Options options_;
  mutable std::mutex mutex_;
  mutable std::set<std::int64_t> bad_;
  mutable std::atomic<bool> any_bad_ = false;
};

}  // namespace credence
