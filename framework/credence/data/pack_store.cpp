#include "credence/data/pack_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "credence/base/errors.h"

namespace credence {
namespace {

/// Classes without names are those of datasets whose labels are bytes.
constexpr std::uint64_t kMostUnnamedClasses = 1U << 16;

/// Texts that each end with a zero byte.
std::vector<std::string> split_texts(const std::vector<std::uint8_t>& bytes) {
  std::vector<std::string> texts;
  for (auto begin = bytes.begin(); begin != bytes.end();) {
    const auto end = std::find(begin, bytes.end(), std::uint8_t{0});
    texts.emplace_back(begin, end);
    begin = end == bytes.end() ? end : end + 1;
  }
  return texts;
}

}  // namespace

PackStore::PackStore(const std::filesystem::path& file, Split split) : file_(file) {
  Input input = open_input(file_);
  descriptor_ = std::move(input.descriptor);
  const std::uint64_t length = input.length;
  try {
    if (length < kPackUserBlockBytes) throw DataError("it is no packed dataset; credence pack makes one");
    PackUserBlock block;
    read_input_at(descriptor_.get(), file_, block, 0);
    header_ = decode_pack_header(block);
    if (length != header_.file_bytes)
      throw DataError(fmt::format("it is truncated or damaged: it has {} of {} bytes", length, header_.file_bytes));
    read_tables();
    check_records();
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", file_.string(), error.what()));
  }
  channels_ = static_cast<int>(header_.channels);
  classes_ = static_cast<std::int64_t>(header_.classes);
  common_size_ = header_.common_size;
  normalization_ = header_.normalization;
  class_names_ = split_texts(tables_.class_names);
  choose(split);
}

void PackStore::read_tables() {
  std::size_t table = 1;
  const auto fill = [&](auto& values) {
    const PackExtent& extent = header_.extents[table++];
    values.resize(extent.bytes / sizeof(values[0]));
    read_input_at(descriptor_.get(), file_, std::as_writable_bytes(std::span(values)), extent.offset);
  };
  fill(tables_.offset);
  fill(tables_.length);
  fill(tables_.label);
  fill(tables_.split);
  fill(tables_.encoding);
  fill(tables_.height);
  fill(tables_.width);
  fill(tables_.digest);
  fill(tables_.class_names);
  fill(tables_.paths);
  if (tables_.combined_digest() != header_.tables) throw DataError("it is damaged: the digest of its tables differs");
  for (std::size_t i = 0; i < tables_.paths.size(); ++i)
    if (tables_.paths[i] == 0) path_ends_.push_back(i);
}

void PackStore::check_records() const {
  const auto refuse = [](std::size_t i, const std::string& why) {
    throw DataError(fmt::format("it is damaged: record {} {}", i, why));
  };
  const std::uint64_t bytes = header_.extents[0].bytes;
  for (std::size_t i = 0; i < tables_.records(); ++i) {
    const auto offset = static_cast<std::uint64_t>(tables_.offset[i]);
    const auto length = static_cast<std::uint64_t>(tables_.length[i]);
    if (length == 0 || offset > bytes || length > bytes - offset)
      refuse(i, fmt::format("has {} bytes from {} on, and there are {}", length, offset, bytes));
    if (tables_.label[i] < 0 || static_cast<std::uint64_t>(tables_.label[i]) >= header_.classes)
      refuse(i, fmt::format("has the label {}, outside 0 to {}", tables_.label[i], header_.classes - 1));
    if (tables_.split[i] > static_cast<std::uint8_t>(PackSplit::both)) refuse(i, "belongs to no split");
    if (tables_.encoding[i] > static_cast<std::uint8_t>(Encoding::png)) refuse(i, "has an unknown encoding");
    const std::int64_t height = tables_.height[i];
    const std::int64_t width = tables_.width[i];
    if (height <= 0 || width <= 0 || height > kMostPixels / width)
      refuse(i, fmt::format("has {} x {} pixels", height, width));
    const auto pixels = static_cast<std::uint64_t>(height * width) * header_.channels;
    if (tables_.encoding[i] == static_cast<std::uint8_t>(Encoding::raw) && pixels != length)
      refuse(i, fmt::format("has {} bytes for {} pixels and channels", length, pixels));
  }
  if (path_ends_.size() != tables_.records()) throw DataError("it is damaged: not every record has a path");
  const std::size_t names = split_texts(tables_.class_names).size();
  if (names != 0 && names != header_.classes)
    throw DataError(fmt::format("it is damaged: {} names for {} classes", names, header_.classes));
  if (names == 0 && header_.classes > kMostUnnamedClasses)
    throw DataError(fmt::format("it is damaged: {} classes without names", header_.classes));
  if (const ImageSize& common = header_.common_size; common != tables_.common_size())
    throw DataError(
        fmt::format("it is damaged: {} x {} pixels is not the size of all its images", common.height, common.width));
  if (tables_.records() > std::numeric_limits<std::uint32_t>::max()) throw DataError("it has more than 2^32 records");
}

void PackStore::choose(Split split) {
  const auto wanted = static_cast<std::uint8_t>(split == Split::train ? PackSplit::train : PackSplit::test);
  constexpr auto kBoth = static_cast<std::uint8_t>(PackSplit::both);
  for (std::size_t i = 0; i < tables_.records(); ++i) {
    if (tables_.split[i] != wanted && tables_.split[i] != kBoth) {
      has_other_split_ = true;
      continue;
    }
    rows_.push_back(static_cast<std::uint32_t>(i));
    labels_.push_back(tables_.label[i]);
    serves_both_ = tables_.split[i] == kBoth;
  }
  if (rows_.empty()) throw DataError(fmt::format("{} holds no images of the {} split", file_.string(), name_of(split)));
  if (has_other_split_) serves_both_ = false;
}

std::string PackStore::path(std::int64_t record) const {
  const std::size_t i = row(record);
  const std::size_t begin = i == 0 ? 0 : path_ends_[i - 1] + 1;
  return {tables_.paths.begin() + static_cast<std::ptrdiff_t>(begin),
          tables_.paths.begin() + static_cast<std::ptrdiff_t>(path_ends_[i])};
}

std::string PackStore::name(std::int64_t record) const {
  return fmt::format("{}, record {} ({})", file_.string(), row(record), path(record));
}

StoredImage PackStore::read(std::int64_t record, std::vector<std::uint8_t>& buffer) const {
  const std::size_t i = row(record);
  buffer.resize(static_cast<std::size_t>(tables_.length[i]));
  const auto bytes = std::as_writable_bytes(std::span(buffer));
  read_input_at(descriptor_.get(), file_, bytes,
                header_.extents[0].offset + static_cast<std::uint64_t>(tables_.offset[i]));
  const Digest digest = digest_of(bytes);
  if (!std::equal(digest.begin(), digest.end(), tables_.digest.begin() + static_cast<std::ptrdiff_t>(16 * i)))
    throw DataError("its bytes are damaged: their digest differs");
  return {static_cast<Encoding>(tables_.encoding[i]), {tables_.height[i], tables_.width[i]}, buffer};
}

void PackStore::add_to(ContentDigest& digest) const {
  for (const std::uint32_t i : rows_)
    digest.add(std::span<const std::uint8_t>(tables_.digest).subspan(std::size_t{16} * i, 16));
}

Digest PackStore::fingerprint(std::int64_t record) const {
  Digest digest;
  std::copy_n(tables_.digest.begin() + static_cast<std::ptrdiff_t>(16 * row(record)), digest.size(), digest.begin());
  return digest;
}

}  // namespace credence
