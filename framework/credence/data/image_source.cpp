#include "credence/data/image_source.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "credence/base/errors.h"
#include "credence/data/image_augmentation.h"
#include "credence/data/on_threads.h"

namespace credence {
namespace {

/// What a thread keeps from image to image.
struct Workplace {
  ImageReader reader;
  std::vector<std::uint8_t> stored;
  std::vector<std::uint8_t> original;

  /// The thread's own for one image, after which large memory is given back.
  class Use {
   public:
    Use() = default;
    ~Use() {
      mine().reader.release_large();
      release_large(mine().stored);
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Workplace* operator->() const { return &mine(); }

   private:
    static Workplace& mine() {
      thread_local Workplace workplace;
      return workplace;
    }
  };
};

}  // namespace

struct ImageSource::Example {
  std::int64_t number;
  const Augmentation* augmentation = nullptr;  // null: as it is
  std::optional<ExampleNoise> noise = {};
};

ImageSource::ImageSource(std::unique_ptr<ImageStore> store, const Options& options)
    : store_(std::move(store)), options_(options) {
  const ImageSize& output = options_.output;
  require(output.height > 0 && output.width > 0 && output.height <= kMostPixels / output.width,
          "images of {} x {} pixels cannot be made; give another --image-size", output.height, output.width);
  require(
      options_.short_side >= std::max(output.height, output.width) && options_.short_side <= kMostPixels,
      "a short side of {} pixels leaves no {} x {} in the middle; --image-size SIZE/SHORT needs SHORT of SIZE or more",
      options_.short_side, output.height, output.width);
  options_.threads = std::max(options_.threads, 1);
  const Normalization& normalization = options_.normalization;
  const auto channels = static_cast<std::size_t>(store_->channels());
  require(
      normalization.empty() || (normalization.mean.size() == channels && normalization.deviation.size() == channels),
      "the images have {} channels, the normalisation given has {}", channels, normalization.mean.size());
  size_ = store_->size();
  spec_.input_shape = {store_->channels(), output.height, output.width};
  spec_.classes = store_->classes();
  spec_.class_names = store_->class_names();
  spec_.normalization = normalization;
  ContentDigest digest(spec_, size_);
  digest.add(store_->labels());
  store_->add_to(digest);
  digest_ = digest.hexadecimal();
}

void ImageSource::prepare(std::int64_t count, Batch& batch) const {
  const auto rows = static_cast<std::size_t>(count);
  batch.size = count;
  batch.inputs.clear();
  batch.targets.clear();
  batch.labels.resize(rows);
  batch.pixels.resize(rows * static_cast<std::size_t>(spec_.input_elements()));
}

void ImageSource::read_rows(const SamplingPlan::Selection& selection, const Variation& variation, std::int64_t begin,
                            std::int64_t end, Batch& batch) const {
  for (std::int64_t row = begin; row < end; ++row) {
    const auto i = static_cast<std::size_t>(row);
    Example example{.number = selection.examples[i]};
    if (variation.augmentation.enabled()) {
      example.augmentation = &variation.augmentation;
      example.noise.emplace(variation.seed, selection.epochs[i], selection.examples[i]);
    }
    read_row(example, row, batch);
  }
}

void ImageSource::fill(std::span<const std::int64_t> examples, Batch& batch) const {
  const auto count = static_cast<std::int64_t>(examples.size());
  rows_on_threads(count, options_.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      read_row({.number = examples[static_cast<std::size_t>(row)]}, row, batch);
  });
}

void ImageSource::read_row(const Example& example, std::int64_t row, Batch& batch) const {
  std::uint8_t* const to = batch.pixels.data() + row * spec_.input_elements();
  const std::int64_t record = record_of(example.number);
  try {
    decode(record, example, to);
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}; --max-bad-records leaves out what is bad from the start", store_->name(record),
                                without_name(error.what(), store_->name(record))));
  }
  batch.labels[static_cast<std::size_t>(row)] = store_->label(record);
}

void ImageSource::decode(std::int64_t record, const Example& example, std::uint8_t* to) const {
  const Workplace::Use mine;
  const int channels = store_->channels();
  const ImageSize& output = options_.output;
  const ImageSize size = mine->reader.open(store_->read(record, mine->stored), channels);
  const Augmentation* const augmentation = example.augmentation;
  ImageView view;
  if (augmentation != nullptr && augmentation->resized_crop) {
    const Box box = draw_resized_crop(*augmentation->resized_crop, *example.noise, size);
    view = box_view(box, output);
  } else {
    view = center_view(size, output, options_.short_side);
  }
  CropAndFlip change;
  if (augmentation != nullptr) change = draw_crop_and_flip(*augmentation, *example.noise);
  if (change.top == 0 && change.left == 0) view.mirrored = std::exchange(change.flip, false);
  mine->reader.read(view, to);
  if (augmentation == nullptr) return;
  crop_and_flip(change, output, channels, to, mine->original);
  if (augmentation->jitter)
    jitter(draw_jitter(*augmentation->jitter, *example.noise), output.height * output.width, to);
}

std::vector<ImageSource::BadRecord> ImageSource::find_bad(std::int64_t begin, std::int64_t end, std::int64_t allowed,
                                                          int threads) const {
  std::atomic<std::int64_t> next = begin;
  std::mutex mutex;
  std::vector<BadRecord> bad;
  const auto enough = [&] {
    const std::lock_guard lock(mutex);
    return static_cast<std::int64_t>(bad.size()) > allowed;
  };
  on_threads(threads, [&](std::int64_t) {
    for (std::int64_t record = next++; record < end && !enough(); record = next++) {
      try {
        const Workplace::Use mine;
        mine->reader.open(store_->read(record, mine->stored), store_->channels());
        mine->reader.check();
      } catch (const DataError& error) {
        const std::lock_guard lock(mutex);
        bad.push_back({record, without_name(error.what(), store_->name(record))});
      }
    }
  });
  std::ranges::sort(bad, {}, &BadRecord::record);
  return bad;
}

void ImageSource::leave_out(const std::vector<std::int64_t>& records) {
  good_before_.clear();
  for (const std::int64_t record : records) good_before_.push_back(record - left_out());
  size_ = store_->size() - left_out();
  if (size_ == 0) throw DataError("none of the images can be read");
  ContentDigest digest(spec_, size_);
  digest.add(store_->labels());
  store_->add_to(digest);
  digest.add(std::span<const std::int64_t>(records));
  digest_ = digest.hexadecimal();
}

std::int64_t ImageSource::record_of(std::int64_t example) const {
  return example + (std::ranges::upper_bound(good_before_, example) - good_before_.begin());
}

}  // namespace credence
