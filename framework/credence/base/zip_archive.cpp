#include "credence/base/zip_archive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "credence/base/text.h"

namespace credence {
namespace {

constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kLargeEndSignature = 0x06064b50;
constexpr std::uint32_t kLargeLocatorSignature = 0x07064b50;
constexpr std::uint32_t kDirectorySignature = 0x02014b50;
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint64_t kEndBytes = 22;
constexpr std::uint64_t kMostCommentBytes = 0xffff;
constexpr std::uint64_t kLargeEndBytes = 56;
constexpr std::uint64_t kLargeLocatorBytes = 20;
constexpr std::uint64_t kDirectoryEntryBytes = 46;
constexpr std::uint64_t kLocalBytes = 30;
constexpr std::uint64_t kMostDirectoryBytes = 64U << 20;
constexpr std::uint16_t kLargeFieldsTag = 1;
constexpr std::uint16_t kStored = 0;
constexpr std::uint16_t kDeflated = 8;
constexpr std::uint64_t kMostInflatedBytes = 1U << 30;

using Bytes = std::span<const std::byte>;

/// A number of the archive at a place that is known to be inside.
template <class T>
T number_at(Bytes bytes, std::uint64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// The 64-bit fields of an entry's extra data, one for each 32-bit field that is full, in this order.
bool read_large_fields(Bytes extra, std::span<std::uint64_t* const> fields) {
  for (std::uint64_t at = 0; at + 4 <= extra.size();) {
    const auto tag = number_at<std::uint16_t>(extra, at);
    const std::uint64_t bytes = number_at<std::uint16_t>(extra, at + 2);
    at += 4;
    if (bytes > extra.size() - at) return false;
    if (tag == kLargeFieldsTag) {
      const Bytes content = extra.subspan(at, bytes);
      std::uint64_t next = 0;
      for (std::uint64_t* const field : fields) {
        if (*field != 0xffffffffU) continue;
        if (next + 8 > content.size()) return false;
        *field = number_at<std::uint64_t>(content, next);
        next += 8;
      }
      return true;
    }
    at += bytes;
  }
  return false;
}

/// Exactly `content`, from exactly `packed`: raw deflate, both below 2^32 bytes.
bool inflate_whole(Bytes packed, std::span<std::byte> content) {
  constexpr int kRaw = -MAX_WBITS;
  z_stream stream{};
  if (inflateInit2(&stream, kRaw) != Z_OK) return false;
  std::byte none{};  // zlib wants a place even for nothing
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(content.empty() ? &none : content.data());
  stream.avail_out = static_cast<uInt>(content.size());
  const int status = ::inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  return status == Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 0;
}

}  // namespace

ZipArchive::ZipArchive(const std::filesystem::path& file)
    : file_(file), descriptor_(open_file(ExitCode::unusable_data, file, O_RDONLY | O_NONBLOCK)) {
  length_ = file_length(ExitCode::unusable_data, file_, descriptor_.get());
  read_directory(find_directory());
}

void ZipArchive::refuse(const std::string& why) const {
  throw DataError(fmt::format("{}: {}", file_.string(), why));
}

std::vector<std::byte> ZipArchive::read_bytes(std::uint64_t offset, std::uint64_t bytes) const {
  std::vector<std::byte> content(static_cast<std::size_t>(bytes));
  read_at(ExitCode::unusable_data, descriptor_.get(), file_, content, offset);
  return content;
}

ZipArchive::Directory ZipArchive::find_directory() const {
  const std::uint64_t tail_bytes = std::min(length_, kEndBytes + kMostCommentBytes);
  if (tail_bytes < kEndBytes) refuse("is too short for a zip archive");
  const std::uint64_t tail_begin = length_ - tail_bytes;
  const std::vector<std::byte> tail = read_bytes(tail_begin, tail_bytes);
  for (std::uint64_t at = tail_bytes - kEndBytes;; --at) {
    if (number_at<std::uint32_t>(tail, at) == kEndSignature &&
        number_at<std::uint16_t>(tail, at + 20) == tail_bytes - at - kEndBytes) {
      const Directory directory{.offset = number_at<std::uint32_t>(tail, at + 16),
                                .bytes = number_at<std::uint32_t>(tail, at + 12),
                                .entries = number_at<std::uint16_t>(tail, at + 10)};
      const bool large =
          directory.offset == 0xffffffffU || directory.bytes == 0xffffffffU || directory.entries == 0xffffU;
      return large ? find_large_directory(tail_begin + at) : directory;
    }
    if (at == 0) refuse("is a zip archive without an end: it is truncated, or not one");
  }
}

ZipArchive::Directory ZipArchive::find_large_directory(std::uint64_t end_record) const {
  if (end_record < kLargeLocatorBytes) refuse("has no room for the zip64 records that it speaks of");
  const auto locator = read_bytes(end_record - kLargeLocatorBytes, kLargeLocatorBytes);
  const auto place = number_at<std::uint64_t>(locator, 8);
  if (number_at<std::uint32_t>(locator, 0) != kLargeLocatorSignature || place > end_record ||
      end_record - place < kLargeEndBytes)
    refuse("has no zip64 record where its end says so");
  const auto record = read_bytes(place, kLargeEndBytes);
  if (number_at<std::uint32_t>(record, 0) != kLargeEndSignature) refuse("has no zip64 record where its end says so");
  return {.offset = number_at<std::uint64_t>(record, 48),
          .bytes = number_at<std::uint64_t>(record, 40),
          .entries = number_at<std::uint64_t>(record, 32)};
}

void ZipArchive::read_directory(const Directory& directory) {
  if (directory.offset > length_ || directory.bytes > length_ - directory.offset)
    refuse("has its directory outside the file");
  if (directory.bytes > kMostDirectoryBytes)
    refuse(fmt::format("has a directory of {} bytes, and at most {} are read", directory.bytes, kMostDirectoryBytes));
  data_end_ = directory.offset;
  const std::vector<std::byte> content = read_bytes(directory.offset, directory.bytes);
  const Bytes all(content);
  std::uint64_t at = 0;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (all.size() - at < kDirectoryEntryBytes || number_at<std::uint32_t>(all, at) != kDirectorySignature)
      refuse(fmt::format("has {} entries and says {}", i, directory.entries));
    Entry entry{.header = number_at<std::uint32_t>(all, at + 42),
                .bytes = number_at<std::uint32_t>(all, at + 24),
                .stored_bytes = number_at<std::uint32_t>(all, at + 20),
                .checksum = number_at<std::uint32_t>(all, at + 16)};
    const std::uint64_t name_bytes = number_at<std::uint16_t>(all, at + 28);
    const std::uint64_t extra_bytes = number_at<std::uint16_t>(all, at + 30);
    const std::uint64_t comment_bytes = number_at<std::uint16_t>(all, at + 32);
    if (name_bytes + extra_bytes + comment_bytes > all.size() - at - kDirectoryEntryBytes)
      refuse(fmt::format("has an entry {} that is longer than its directory", i));
    const std::string name(reinterpret_cast<const char*>(all.data()) + at + kDirectoryEntryBytes, name_bytes);
    std::uint64_t* const fields[] = {&entry.bytes, &entry.stored_bytes, &entry.header};
    const bool large = std::ranges::any_of(fields, [](const std::uint64_t* f) { return *f == 0xffffffffU; });
    if (large && !read_large_fields(all.subspan(at + kDirectoryEntryBytes + name_bytes, extra_bytes), fields))
      refuse(fmt::format("has no zip64 sizes of '{}'", shown(name)));
    const bool encrypted = (number_at<std::uint16_t>(all, at + 8) & 1U) != 0;
    const auto method = number_at<std::uint16_t>(all, at + 10);
    entry.deflated = method == kDeflated;
    if (encrypted || (method != kStored && method != kDeflated))
      refuse(fmt::format("'{}' is encrypted or compressed by another method than deflate", shown(name)));
    if (!entry.deflated && entry.stored_bytes != entry.bytes)
      refuse(fmt::format("'{}' is stored as it is, and has two sizes", shown(name)));
    if (entry.header > data_end_ || data_end_ - entry.header < kLocalBytes ||
        entry.stored_bytes > data_end_ - entry.header - kLocalBytes)
      refuse(fmt::format("'{}' lies outside the archive", shown(name)));
    if (!entries_.emplace(name, entry).second) refuse(fmt::format("'{}' is there twice", shown(name)));
    at += kDirectoryEntryBytes + name_bytes + extra_bytes + comment_bytes;
  }
}

std::vector<std::byte> ZipArchive::read(const std::string& name, std::uint64_t most_bytes) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) refuse(fmt::format("there is no '{}' in it", shown(name)));
  const Entry& entry = found->second;
  if (entry.bytes > most_bytes)
    refuse(fmt::format("'{}' has {} bytes, and {} are the most", shown(name), entry.bytes, most_bytes));
  const auto header = read_bytes(entry.header, kLocalBytes);
  if (number_at<std::uint32_t>(header, 0) != kLocalSignature)
    refuse(fmt::format("'{}' does not begin where the directory says", shown(name)));
  const std::uint64_t begin =
      entry.header + kLocalBytes + number_at<std::uint16_t>(header, 26) + number_at<std::uint16_t>(header, 28);
  if (begin > data_end_ || entry.stored_bytes > data_end_ - begin)
    refuse(fmt::format("'{}' lies outside the archive", shown(name)));
  std::vector<std::byte> content = read_bytes(begin, entry.stored_bytes);
  if (entry.deflated) {
    if (entry.bytes > kMostInflatedBytes || entry.stored_bytes > kMostInflatedBytes)
      refuse(fmt::format("'{}' is deflated and has more than {} bytes", shown(name), kMostInflatedBytes));
    const std::vector<std::byte> packed = std::exchange(content, std::vector<std::byte>(entry.bytes));
    if (!inflate_whole(packed, content)) refuse(fmt::format("'{}' is damaged: it does not inflate", shown(name)));
  }
  const auto checksum = ::crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
  if (checksum != entry.checksum)
    refuse(fmt::format("'{}' is damaged: its checksum is {:08x} and should be {:08x}", shown(name), checksum,
                       entry.checksum));
  return content;
}

}  // namespace credence
