#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

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

  /// A record of the store that cannot be decoded. That depends on the record alone.
  struct BadRecord {
    std::int64_t record;
    std::string why;
  };
  /// Those of the records [begin, end), in order, each read and decoded whole, JPEGs at an eighth of their size. Once
  /// there are more than `allowed`, the rest is not looked at. StorageError.
  std::vector<BadRecord> find_bad(std::int64_t begin, std::int64_t end, std::int64_t allowed, int threads) const;
  /// From now on without these records of the store, in order: the others are the examples, and the digest tells which
  /// they are. DataError where none is left.
  void leave_out(const std::vector<std::int64_t>& records);
  std::int64_t left_out() const noexcept { return static_cast<std::int64_t>(good_before_.size()); }

 private:
  struct Example;
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override;
  void read_row(const Example& example, std::int64_t row, Batch& batch) const;
  void decode(std::int64_t record, const Example& example, std::uint8_t* to) const;
  std::int64_t record_of(std::int64_t example) const;

  std::unique_ptr<ImageStore> store_;
  Options options_;
  std::vector<std::int64_t> good_before_;  // of every record left out: how many before it are not
};

}  // namespace credence
