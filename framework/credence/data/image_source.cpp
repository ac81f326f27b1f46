#include "credence/data/image_source.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/data/image_augmentation.h"

namespace credence {
namespace {

/// What a thread keeps from image to image.
struct Workplace {
  ImageReader reader;
  std::vector<std::uint8_t> stored;
  std::vector<std::uint8_t> original;
};

Workplace& workplace() {
  thread_local Workplace mine;
  return mine;
}

}  // namespace

struct ImageSource::Example {
  std::int64_t record;
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
  require(options_.max_bad_records >= 0, "--max-bad-records must not be negative, not {}", options_.max_bad_records);
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
    Example example{.record = selection.examples[i]};
    if (variation.augmentation.enabled()) {
      example.augmentation = &variation.augmentation;
      example.noise.emplace(variation.seed, selection.epochs[i], selection.examples[i]);
    }
    read_row(example, row, batch);
  }
}

void ImageSource::fill(std::span<const std::int64_t> examples, Batch& batch) const {
  const auto count = static_cast<std::int64_t>(examples.size());
  const std::int64_t threads = std::clamp<std::int64_t>(options_.threads, 1, std::max<std::int64_t>(count, 1));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
  const auto work = [&](std::int64_t thread) {
    try {
      for (std::int64_t row = count * thread / threads; row < count * (thread + 1) / threads; ++row)
        read_row({.record = examples[static_cast<std::size_t>(row)]}, row, batch);
    } catch (...) {
      errors[static_cast<std::size_t>(thread)] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::int64_t thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
    work(0);
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

void ImageSource::read_row(const Example& example, std::int64_t row, Batch& batch) const {
  std::uint8_t* const to = batch.pixels.data() + row * spec_.input_elements();
  for (std::int64_t tried = 0; tried < size_; ++tried) {
    const std::int64_t record = (example.record + tried) % size_;
    if (known_bad(record)) continue;
    try {
      decode(record, example, to);
    } catch (const DataError& error) {
      note_bad(record, error.what());
      continue;
    }
    batch.labels[static_cast<std::size_t>(row)] = store_->label(record);
    return;
  }
  throw DataError("none of the images can be read");
}

void ImageSource::decode(std::int64_t record, const Example& example, std::uint8_t* to) const {
  Workplace& mine = workplace();
  const int channels = store_->channels();
  const ImageSize& output = options_.output;
  const ImageSize size = mine.reader.open(store_->read(record, mine.stored), channels);
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
  mine.reader.read(view, to);
  if (augmentation == nullptr) return;
  crop_and_flip(change, output, channels, to, mine.original);
  if (augmentation->jitter)
    jitter(draw_jitter(*augmentation->jitter, *example.noise), output.height * output.width, to);
}

bool ImageSource::known_bad(std::int64_t record) const {
  if (!any_bad_.load(std::memory_order_acquire)) return false;
  const std::lock_guard lock(mutex_);
  return bad_.contains(record);
}

void ImageSource::note_bad(std::int64_t record, const std::string& why) const {
  const std::string message = fmt::format("{}: {}", store_->name(record), why);
  const std::lock_guard lock(mutex_);
  const auto count = static_cast<std::int64_t>(bad_.size());
  if (bad_.contains(record)) return;
  if (count >= options_.max_bad_records)
    throw DataError(count == 0 ? message + "; --max-bad-records lets such records pass"
                               : fmt::format("{}; it is bad record {}, and --max-bad-records allows {}", message,
                                             count + 1, options_.max_bad_records));
  bad_.insert(record);
  any_bad_.store(true, std::memory_order_release);
  log_warning("skipped, {} of {} bad records allowed: {}", count + 1, options_.max_bad_records, message);
}

}  // namespace credence
