#include "credence/data/cifar_store.h"

#include <algorithm>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/data/input_file.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSide = 32;
constexpr std::int64_t kPlane = kSide * kSide;
constexpr std::int64_t kImage = 3 * kPlane;

// Of the training sets' channels.
const Normalization kTenNormalization = {{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}};
const Normalization kHundredNormalization = {{0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// One name a line; none unless there are as many as classes.
std::vector<std::string> read_names(const fs::path& file, std::int64_t classes) {
  if (!is_there(file)) return {};
  std::vector<std::string> names;
  for (std::string& line : credence::split(InputFile(file).read_all(), '\n')) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) names.push_back(std::move(line));
  }
  return static_cast<std::int64_t>(names.size()) == classes ? names : std::vector<std::string>();
}

std::vector<fs::path> files_of(const fs::path& directory, Cifar kind, Split split) {
  const auto needed = [&](const char* name) {
    if (!is_there(directory / name))
      throw DataError(fmt::format("{} is missing; {} needs the folder of CIFAR's binary version, names unchanged",
                                  (directory / name).string(), kind == Cifar::ten ? "cifar10:DIR" : "cifar100:DIR"));
    return directory / name;
  };
  if (kind == Cifar::hundred) return {needed(split == Split::train ? "train.bin" : "test.bin")};
  if (split == Split::test) return {needed("test_batch.bin")};
  std::vector<fs::path> files;
  for (int i = 1; i <= 5; ++i) files.push_back(needed(fmt::format("data_batch_{}.bin", i).c_str()));
  return files;
}

}  // namespace

CifarStore::CifarStore(const fs::path& directory, Cifar kind, Split split) {
  classes_ = kind == Cifar::ten ? 10 : 100;
  common_size_ = {kSide, kSide};
  normalization_ = kind == Cifar::ten ? kTenNormalization : kHundredNormalization;
  const char* const of_ten = split == Split::train ? "test_batch.bin" : "data_batch_1.bin";
  const char* const of_hundred = split == Split::train ? "test.bin" : "train.bin";
  has_other_split_ = is_there(directory / (kind == Cifar::ten ? of_ten : of_hundred));
  class_names_ = read_names(directory / (kind == Cifar::ten ? "batches.meta.txt" : "fine_label_names.txt"), classes_);
  for (const fs::path& file : files_of(directory, kind, split)) add_file(file, kind == Cifar::ten ? 1 : 2);
}

void CifarStore::add_file(const fs::path& path, int label_bytes) {
  const std::string bytes = InputFile(path).read_all();
  const auto length = static_cast<std::int64_t>(bytes.size());
  const std::int64_t record = label_bytes + kImage;
  if (length == 0 || length % record != 0)
    throw DataError(
        fmt::format("{} has {} bytes, which are no whole number of records of {}: it is truncated or damaged",
                    path.string(), length, record));
  files_.push_back({path, size()});
  pixels_.reserve(pixels_.size() + static_cast<std::size_t>(length));
  for (std::int64_t i = 0; i < length / record; ++i) {
    const auto* const from = reinterpret_cast<const std::uint8_t*>(bytes.data()) + i * record;
    const std::uint8_t label = from[label_bytes - 1];
    if (label >= classes_)
      throw DataError(
          fmt::format("{}: the label of record {} is {}, outside 0 to {}", path.string(), i, label, classes_ - 1));
    labels_.push_back(label);
    for (std::int64_t pixel = 0; pixel < kPlane; ++pixel)
      for (std::int64_t c = 0; c < 3; ++c) pixels_.push_back(from[label_bytes + c * kPlane + pixel]);
  }
}

const CifarStore::File& CifarStore::file_of(std::int64_t record) const {
  return *std::prev(std::ranges::upper_bound(files_, record, {}, &File::first));
}

std::string CifarStore::name(std::int64_t record) const {
  const File& file = file_of(record);
  return fmt::format("{}, record {}", file.path.string(), record - file.first);
}

std::string CifarStore::path(std::int64_t record) const {
  const File& file = file_of(record);
  return fmt::format("{}#{}", file.path.filename().string(), record - file.first);
}

StoredImage CifarStore::read(std::int64_t record, std::vector<std::uint8_t>&) const {
  return {Encoding::raw, common_size_, std::span(pixels_).subspan(static_cast<std::size_t>(record * kImage), kImage)};
}

void CifarStore::add_to(ContentDigest& digest) const {
  digest.add(std::span<const std::uint8_t>(pixels_));
}

}  // namespace credence
