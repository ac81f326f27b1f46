#include "credence/data/pack_format.h"

#include <algorithm>
#include <cstring>

#include "credence/base/errors.h"

namespace credence {
namespace {

constexpr std::array<char, 8> kMagic = {'C', 'R', 'E', 'D', 'P', 'A', 'C', 'K'};
constexpr std::size_t kDigestAt = kPackUserBlockBytes - sizeof(Digest);
constexpr std::size_t kChannels = 3;  // room for so many means and deviations

/// Copies numbers out of or into a block, one after the other.
class Cursor {
 public:
  explicit Cursor(PackUserBlock& block) : block_(block) {}
  template <class T>
  void put(const T& value) {
    std::memcpy(block_.data() + at_, &value, sizeof(T));
    at_ += sizeof(T);
  }
  template <class T>
  void get(T& value) {
    std::memcpy(&value, block_.data() + at_, sizeof(T));
    at_ += sizeof(T);
  }

 private:
  PackUserBlock& block_;
  std::size_t at_ = 0;
};

Digest digest_of_block(const PackUserBlock& block) {
  return digest_of(std::span(block).first(kDigestAt));
}

void check(const PackHeader& header) {
  const auto refuse = [](const std::string& why) { throw DataError("it is damaged: " + why); };
  if (header.records == 0) refuse("it has no records");
  if (header.channels != 1 && header.channels != 3) refuse(fmt::format("images of {} channels", header.channels));
  if (header.classes == 0 || header.classes > (std::uint64_t{1} << 32))
    refuse(fmt::format("{} classes", header.classes));
  for (std::size_t i = 0; i < kPackTables.size(); ++i) {
    const auto& [offset, bytes] = header.extents[i];
    if (offset > header.file_bytes || bytes > header.file_bytes - offset)
      refuse(fmt::format("'{}' reaches beyond the end of the file", kPackTables[i]));
  }
  constexpr std::size_t kBytesOfRecord[] = {0, 8, 8, 8, 1, 1, 8, 8, 16};
  for (std::size_t i = 1; i < std::size(kBytesOfRecord); ++i) {
    const std::uint64_t bytes = header.extents[i].bytes;
    if (bytes % kBytesOfRecord[i] != 0 || bytes / kBytesOfRecord[i] != header.records)
      refuse(fmt::format("'{}' has {} bytes for {} records", kPackTables[i], bytes, header.records));
  }
}

}  // namespace

PackUserBlock encode(const PackHeader& header) {
  PackUserBlock block{};
  Cursor cursor(block);
  cursor.put(kMagic);
  cursor.put(kPackVersion);
  cursor.put(header.channels);
  cursor.put(header.file_bytes);
  cursor.put(header.records);
  cursor.put(header.classes);
  cursor.put(header.common_size);
  for (const PackExtent& extent : header.extents) cursor.put(extent);
  cursor.put(header.tables);
  std::array<double, 2 * kChannels> numbers{};
  std::ranges::copy(header.normalization.mean, numbers.begin());
  std::ranges::copy(header.normalization.deviation, numbers.begin() + kChannels);
  cursor.put(numbers);
  cursor.put(header.job);
  const Digest digest = digest_of_block(block);
  std::memcpy(block.data() + kDigestAt, digest.data(), digest.size());
  return block;
}

PackHeader decode_pack_header(const PackUserBlock& given) {
  PackUserBlock block = given;
  Cursor cursor(block);
  std::array<char, 8> magic{};
  cursor.get(magic);
  if (magic != kMagic) throw DataError("it is no packed dataset; credence pack makes one");
  std::uint32_t version = 0;
  cursor.get(version);
  const Digest digest = digest_of_block(block);
  if (std::memcmp(block.data() + kDigestAt, digest.data(), digest.size()) != 0)
    throw DataError("it is damaged: the digest of its first 512 bytes differs");
  if (version != kPackVersion)
    throw DataError(fmt::format("it has version {} of the packed format, and this program reads version {}", version,
                                kPackVersion));
  PackHeader header;
  cursor.get(header.channels);
  cursor.get(header.file_bytes);
  cursor.get(header.records);
  cursor.get(header.classes);
  cursor.get(header.common_size);
  for (PackExtent& extent : header.extents) cursor.get(extent);
  cursor.get(header.tables);
  check(header);
  std::array<double, 2 * kChannels> numbers{};
  cursor.get(numbers);
  cursor.get(header.job);
  const bool normalized = std::ranges::any_of(numbers, [](double value) { return value != 0.0; });
  for (std::size_t c = 0; normalized && c < header.channels; ++c) {
    header.normalization.mean.push_back(numbers[c]);
    header.normalization.deviation.push_back(numbers[kChannels + c]);
    if (!(numbers[kChannels + c] > 0.0)) throw DataError("it is damaged: its normalisation has no deviation");
  }
  return header;
}

std::array<std::span<const std::byte>, kPackTables.size()> PackTables::views() const {
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  return {std::span<const std::byte>(),
          bytes(offset),
          bytes(length),
          bytes(label),
          bytes(split),
          bytes(encoding),
          bytes(height),
          bytes(width),
          bytes(digest),
          bytes(class_names),
          bytes(paths)};
}

Digest PackTables::combined_digest() const {
  Hasher hasher;
  for (const auto& view : views()) hasher.update(view);
  return hasher.digest();
}

ImageSize PackTables::common_size() const {
  const auto all_alike = [](const std::vector<std::int64_t>& values) {
    return std::ranges::adjacent_find(values, std::ranges::not_equal_to()) == values.end();
  };
  if (!all_alike(height) || !all_alike(width)) return {};
  return {height.front(), width.front()};
}

}  // namespace credence
