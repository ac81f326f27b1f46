#include "credence/data/idx.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "credence/base/errors.h"
#include "credence/data/digest.h"
#include "credence/data/input_file.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kImagesMagic = 0x00000803;  // two zeros, type 8 (unsigned byte), number of dimensions
constexpr std::uint32_t kLabelsMagic = 0x00000801;

struct IdxArray {
  std::vector<std::uint32_t> shape;
  std::vector<std::uint8_t> bytes;
};

std::uint32_t read_word(InputFile& file) {
  std::array<std::uint8_t, 4> bytes{};
  if (file.read(bytes) != bytes.size())
    throw DataError(fmt::format("{} is truncated: it ends in its header", file.name()));
  std::uint32_t word = 0;
  for (const std::uint8_t byte : bytes) word = word << 8 | byte;
  return word;
}

std::string_view meaning(std::uint32_t magic) {
  if (magic == kImagesMagic) return " (images)";
  if (magic == kLabelsMagic) return " (labels)";
  return "";
}

IdxArray read_idx(const fs::path& path, std::uint32_t magic) {
  InputFile file(path);
  const std::uint32_t found = read_word(file);
  if (found != magic)
    throw DataError(fmt::format("{} begins with the magic number 0x{:08x}{}, not with 0x{:08x}{} of idx files",
                                file.name(), found, meaning(found), magic, meaning(magic)));
  IdxArray array;
  std::uint64_t bytes = 1;
  for (std::uint32_t dimension = 0; dimension < (magic & 0xff); ++dimension) {
    array.shape.push_back(read_word(file));
    if (array.shape.back() == 0) throw DataError(fmt::format("{} is empty: one of its dimensions is 0", file.name()));
    if (__builtin_mul_overflow(bytes, array.shape.back(), &bytes)) bytes = ~std::uint64_t{0};
  }
  if (bytes > file.most_bytes())
    throw DataError(
        fmt::format("{} is truncated or damaged: its header announces [{}] bytes, more than the file can hold",
                    file.name(), fmt::join(array.shape, ", ")));

  array.bytes.resize(bytes);
  const std::size_t count = file.read(array.bytes);
  if (count != bytes)
    throw DataError(fmt::format("{} is truncated: it ends after {} of {} bytes", file.name(), count, bytes));
  std::array<std::uint8_t, 1> more{};
  if (file.read(more) != 0)
    throw DataError(fmt::format("{} goes on after the {} bytes that its header announces", file.name(), bytes));
  return array;
}

std::vector<std::uint8_t> read_labels(const IdxFiles& files, std::uint32_t images) {
  IdxArray labels = read_idx(files.labels, kLabelsMagic);
  const auto wrong = std::ranges::find_if(labels.bytes, [&](std::uint8_t label) { return label >= files.classes; });
  if (wrong != labels.bytes.end())
    throw DataError(fmt::format("{}: the label of record {} is {}, outside 0 to {}", files.labels.string(),
                                wrong - labels.bytes.begin(), *wrong, files.classes - 1));
  if (images != labels.shape[0])
    throw DataError(fmt::format("{} holds {} images, but {} holds {} labels", files.images.string(), images,
                                files.labels.string(), labels.shape[0]));
  return std::move(labels.bytes);
}

std::optional<fs::path> find_file(const fs::path& directory, const std::string& stem, const std::string& type) {
  for (const char* ending : {"", ".gz"})
    for (const char* separator : {"-", "."}) {
      fs::path path = directory / (stem + separator + type + ending);
      std::error_code ignored;
      if (fs::exists(path, ignored)) return path;
    }
  return std::nullopt;
}

}  // namespace

IdxFiles find_idx_files(const fs::path& directory, Split split, const std::string& advice) {
  const std::string prefix = split == Split::train ? "train" : "t10k";
  const auto find = [&](const std::string& what, const std::string& type) {
    auto path = find_file(directory, prefix + "-" + what, type);
    if (!path)
      throw DataError(fmt::format("{} is missing, plain or as .gz; {}",
                                  (directory / fmt::format("{}-{}-{}", prefix, what, type)).string(), advice));
    return *std::move(path);
  };
  IdxFiles files;
  files.images = find("images", "idx3-ubyte");
  files.labels = find("labels", "idx1-ubyte");
  files.has_other_split =
      find_file(directory, (split == Split::train ? "t10k" : "train") + std::string("-images"), "idx3-ubyte")
          .has_value();
  return files;
}

IdxSource::IdxSource(const IdxFiles& files) {
  require(
      files.normalization.mean.size() == files.normalization.deviation.size() && files.normalization.mean.size() <= 1,
      "idx images have one channel, the normalisation given has {}", files.normalization.mean.size());
  IdxArray images = read_idx(files.images, kImagesMagic);
  if (!files.labels.empty()) labels_ = read_labels(files, images.shape[0]);

  size_ = images.shape[0];
  spec_.input_shape = {1, images.shape[1], images.shape[2]};
  if (!labels_.empty()) spec_.classes = files.classes, spec_.class_names = files.class_names;
  spec_.normalization = files.normalization;
  images_ = std::move(images.bytes);
  for (int pixel = 0; pixel < 256; ++pixel) value_of_pixel_.push_back(spec_.normalization.apply(pixel, 0));

  ContentDigest digest(spec_, size_);
  digest.add(std::span<const std::uint8_t>(images_));
  digest.add(std::span<const std::uint8_t>(labels_));
  digest_ = digest.hexadecimal();
}

void IdxSource::fill(std::span<const std::int64_t> examples, Batch& batch) const {
  const std::int64_t elements = spec_.input_elements();
  const float* const values = value_of_pixel_.data();
  float* to = batch.inputs.data();
  for (std::size_t row = 0; row < examples.size(); ++row, to += elements) {
    const std::int64_t example = examples[row];
    const std::uint8_t* const pixels = images_.data() + example * elements;
    for (std::int64_t i = 0; i < elements; ++i) to[i] = values[pixels[i]];
    if (!labels_.empty()) batch.labels[row] = labels_[static_cast<std::size_t>(example)];
  }
}

IdxStore::IdxStore(const IdxFiles& files, int channels) : file_(files.images) {
  IdxArray images = read_idx(files.images, kImagesMagic);
  const std::vector<std::uint8_t> labels = read_labels(files, images.shape[0]);
  labels_.assign(labels.begin(), labels.end());
  classes_ = files.classes;
  class_names_ = files.class_names;
  channels_ = channels;
  has_other_split_ = files.has_other_split;
  common_size_ = {images.shape[1], images.shape[2]};
  normalization_ = files.normalization;
  images_ = std::move(images.bytes);
}

std::string IdxStore::name(std::int64_t record) const {
  return fmt::format("{}, record {}", file_.string(), record);
}

std::string IdxStore::path(std::int64_t record) const {
  return fmt::format("{}#{}", file_.filename().string(), record);
}

StoredImage IdxStore::read(std::int64_t record, std::vector<std::uint8_t>& buffer) const {
  const auto area = static_cast<std::size_t>(common_size_.height * common_size_.width);
  const auto pixels = std::span(images_).subspan(static_cast<std::size_t>(record) * area, area);
  if (channels_ == 1) return {Encoding::raw, common_size_, pixels};
  buffer.clear();
  for (const std::uint8_t pixel : pixels) buffer.insert(buffer.end(), static_cast<std::size_t>(channels_), pixel);
  return {Encoding::raw, common_size_, buffer};
}

void IdxStore::add_to(ContentDigest& digest) const {
  digest.add(std::span<const std::uint8_t>(images_));
}

}  // namespace credence
