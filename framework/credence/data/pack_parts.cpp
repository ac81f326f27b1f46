#include "credence/data/pack_parts.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "credence/base/errors.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 16> kMagic = {'c', 'r', 'e', 'd', 'e', 'n', 'c', 'e', ' ', 'p', 'a', 'r', 't', ' ', '1', 0};

/// As in the journal. The check covers what is before it.
struct Line {
  std::int64_t record;
  std::int64_t offset;
  std::int64_t length;
  std::int32_t height;
  std::int32_t width;
  Digest digest;
  std::uint8_t encoding;
  std::uint8_t bad;
  std::array<std::uint8_t, 6> unused;
  std::uint64_t check;
};
static_assert(sizeof(Line) == 64);

std::uint64_t check_of(const Line& line) {
  return XXH3_64bits(&line, offsetof(Line, check));
}

struct Heading {
  std::array<char, 16> magic;
  Digest job;
  std::array<std::uint8_t, 32> unused;
};
static_assert(sizeof(Heading) == 64);

fs::path journal_of(fs::path bytes) {
  return bytes.replace_extension(".journal");
}

void sync_data(const Descriptor& descriptor, const fs::path& file) {
  while (fdatasync(descriptor.get()) != 0)
    if (errno != EINTR) fail_call(ExitCode::storage, file, "fdatasync", errno);
}

/// The number in part-NUMBER.journal; -1 for other names.
int part_number(const fs::path& file) {
  const std::string stem = file.stem().string();
  int number = -1;
  if (file.extension() != ".journal" || !stem.starts_with("part-")) return -1;
  const auto parsed = std::from_chars(stem.data() + 5, stem.data() + stem.size(), number);
  return parsed.ec == std::errc() && parsed.ptr == stem.data() + stem.size() ? number : -1;
}

void read_journal(const fs::path& file, int part, const Digest& job, std::vector<PlacedEntry>& entries) {
  const Descriptor descriptor = open_file(ExitCode::unusable_data, file, O_RDONLY);
  const std::uint64_t length = file_length(ExitCode::unusable_data, file, descriptor.get());
  if (length < sizeof(Heading)) return;  // killed before anything was done
  Heading heading{};
  read_at(ExitCode::unusable_data, descriptor.get(), file, std::as_writable_bytes(std::span(&heading, 1)), 0);
  if (heading.magic != kMagic) throw DataError(fmt::format("{} is no journal of a pack", file.string()));
  require(heading.job == job,
          "{} was begun from other data or with other options; give those to finish it, or start anew with "
          "--overwrite",
          file.parent_path().string());
  std::vector<Line> lines((length - sizeof(Heading)) / sizeof(Line));
  read_at(ExitCode::unusable_data, descriptor.get(), file, std::as_writable_bytes(std::span(lines)), sizeof(Heading));
  for (const Line& line : lines) {
    if (line.check != check_of(line)) return;
    entries.push_back(
        {part,
         {line.record, line.offset, line.length, line.height, line.width, line.encoding, line.bad != 0, line.digest}});
  }
}

}  // namespace

fs::path part_file(const fs::path& directory, int part) {
  return directory / fmt::format("part-{:04}.bytes", part);
}

PartWriter::PartWriter(const fs::path& directory, int part, const Digest& job)
    : bytes_path_(part_file(directory, part)), journal_path_(journal_of(bytes_path_)) {
  bytes_ = open_file(ExitCode::storage, bytes_path_, O_WRONLY | O_CREAT | O_EXCL);
  journal_ = open_file(ExitCode::storage, journal_path_, O_WRONLY | O_CREAT | O_EXCL);
  const Heading heading{kMagic, job, {}};
  write_at(journal_.get(), journal_path_, std::as_bytes(std::span(&heading, 1)), 0);
  journal_end_ = sizeof(Heading);
  sync();
  sync_directory(directory);
}

void PartWriter::append(std::int64_t record, const PackedImage& image) {
  const auto bytes = std::as_bytes(image.bytes);
  write_at(bytes_.get(), bytes_path_, bytes, bytes_end_);
  note({record, static_cast<std::int64_t>(bytes_end_), static_cast<std::int64_t>(bytes.size()),
        static_cast<std::int32_t>(image.size.height), static_cast<std::int32_t>(image.size.width),
        static_cast<std::uint8_t>(image.encoding), false, digest_of(bytes)});
  bytes_end_ += bytes.size();
}

void PartWriter::append_bad(std::int64_t record) {
  note({.record = record, .bad = true});
}

void PartWriter::note(const PartEntry& entry) {
  Line line{entry.record,
            entry.offset,
            entry.length,
            entry.height,
            entry.width,
            entry.digest,
            entry.encoding,
            static_cast<std::uint8_t>(entry.bad),
            {},
            0};
  line.check = check_of(line);
  const auto bytes = std::as_bytes(std::span(&line, 1));
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
}

void PartWriter::sync_if_due(double seconds) {
  if (since_sync_.seconds() >= seconds) sync();
}

void PartWriter::sync() {
  if (!pending_.empty()) {
    sync_data(bytes_, bytes_path_);
    write_at(journal_.get(), journal_path_, pending_, journal_end_);
    journal_end_ += pending_.size();
    pending_.clear();
  }
  sync_data(journal_, journal_path_);
  since_sync_.restart();
}

PartsFound read_parts(const fs::path& directory, const Digest& job) {
  PartsFound found;
  for (const fs::directory_entry& file : fs::directory_iterator(directory)) {
    const int part = part_number(file.path());
    if (part < 0) continue;
    found.next_part = std::max(found.next_part, part + 1);
    read_journal(file.path(), part, job, found.entries);
  }
  // A bytes file may be there without its journal.
  while (fs::exists(part_file(directory, found.next_part))) ++found.next_part;
  return found;
}

}  // namespace credence
