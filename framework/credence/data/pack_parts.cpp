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
#include "credence/base/stopwatch.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 16> kMagic = {'c', 'r', 'e', 'd', 'e', 'n', 'c', 'e', ' ', 'p', 'a', 'r', 't', ' ', '2', 0};

/// As in the journal. The check covers what is before it.
struct Line {
  Digest key;
  std::int64_t offset;
  std::int64_t length;
  std::int32_t height;
  std::int32_t width;
  Digest digest;
  std::uint8_t encoding;
  std::uint8_t bad;
  std::array<std::uint8_t, 14> unused;
  std::uint64_t check;
};
static_assert(sizeof(Line) == 80);

struct Heading {
  std::array<char, 16> magic;
  Digest options;
  std::array<std::uint8_t, 24> unused;
  std::uint64_t check;
};
static_assert(sizeof(Heading) == 64);

template <class T>
std::uint64_t check_of(const T& block) {
  return XXH3_64bits(&block, offsetof(T, check));
}

fs::path journal_of(fs::path bytes) {
  return bytes.replace_extension(".journal");
}

/// The number in part-NUMBER.journal or part-NUMBER.bytes; -1 for other names.
int part_number(const fs::path& file) {
  const std::string stem = file.stem().string();
  int number = -1;
  if ((file.extension() != ".journal" && file.extension() != ".bytes") || !stem.starts_with("part-")) return -1;
  const auto parsed = std::from_chars(stem.data() + 5, stem.data() + stem.size(), number);
  return parsed.ec == std::errc() && parsed.ptr == stem.data() + stem.size() ? number : -1;
}

void read_journal(const fs::path& file, int part, const Digest& options, std::vector<PlacedEntry>& entries) {
  const Input journal = open_input(file);
  if (journal.length < sizeof(Heading)) return;  // killed before anything was done
  Heading heading{};
  read_input_at(journal.descriptor.get(), file, std::as_writable_bytes(std::span(&heading, 1)), 0);
  // Power that fails before the first sync may leave zeros, or half a heading: nothing was done then either.
  if (heading.magic != kMagic || heading.check != check_of(heading)) return;
  require(
      heading.options == options,
      "{} was begun with another --encoding, --short-side or --quality; give those to finish it, or start anew with "
      "--overwrite",
      file.parent_path().string());
  std::vector<Line> lines((journal.length - sizeof(Heading)) / sizeof(Line));
  read_input_at(journal.descriptor.get(), file, std::as_writable_bytes(std::span(lines)), sizeof(Heading));
  for (const Line& line : lines) {
    if (line.check != check_of(line)) return;
    entries.push_back(
        {part,
         {line.key, line.offset, line.length, line.height, line.width, line.encoding, line.bad != 0, line.digest}});
  }
}

}  // namespace

fs::path part_file(const fs::path& directory, int part) {
  return directory / fmt::format("part-{:04}.bytes", part);
}

PackMachine::PackMachine()
    : seconds([clock = Stopwatch()] { return clock.seconds(); }), sync([](int fd, const fs::path& file) {
        while (fdatasync(fd) != 0)
          if (errno != EINTR) fail_call(ExitCode::storage, file, "fdatasync", errno);
      }) {}

PartWriter::PartWriter(const fs::path& directory, int part, const Digest& options, PackMachine machine)
    : bytes_path_(part_file(directory, part)), journal_path_(journal_of(bytes_path_)), machine_(std::move(machine)) {
  bytes_ = open_file(ExitCode::storage, bytes_path_, O_WRONLY | O_CREAT | O_EXCL);
  journal_ = open_file(ExitCode::storage, journal_path_, O_WRONLY | O_CREAT | O_EXCL);
  Heading heading{kMagic, options, {}, 0};
  heading.check = check_of(heading);
  write_at(journal_.get(), journal_path_, std::as_bytes(std::span(&heading, 1)), 0);
  journal_end_ = sizeof(Heading);
  machine_.sync(journal_.get(), journal_path_);
  sync_directory(directory);
}

void PartWriter::append(const Digest& key, const PackedImage& image) {
  sync_after(2 * kSyncSeconds);
  const auto bytes = std::as_bytes(image.bytes);
  std::uint64_t offset = 0;
  {
    const std::lock_guard lock(mutex_);
    offset = bytes_end_;
    bytes_end_ += bytes.size();
  }
  const Digest digest = digest_of(bytes);
  write_at(bytes_.get(), bytes_path_, bytes, offset);
  note({key, static_cast<std::int64_t>(offset), static_cast<std::int64_t>(bytes.size()),
        static_cast<std::int32_t>(image.size.height), static_cast<std::int32_t>(image.size.width),
        static_cast<std::uint8_t>(image.encoding), false, digest});
}

void PartWriter::append_bad(const Digest& key) {
  note({.key = key, .bad = true});
}

void PartWriter::note(const PartEntry& entry) {
  Line line{entry.key,
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
  const std::lock_guard lock(mutex_);
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  if (!pending_since_) pending_since_ = machine_.seconds();
}

double PartWriter::seconds_unsynced() {
  const std::lock_guard lock(mutex_);
  const double now = machine_.seconds();
  return now - syncing_since_.value_or(pending_since_.value_or(now));
}

void PartWriter::sync_after(double seconds) {
  if (seconds_unsynced() < seconds) return;
  const std::lock_guard lock(syncing_);
  if (seconds_unsynced() >= seconds) sync_all();  // nobody else did meanwhile
}

void PartWriter::sync() {
  const std::lock_guard lock(syncing_);
  sync_all();
}

void PartWriter::sync_all() {
  // The kernel reports a failed write once, and other records may have been in it: nothing is sure after it.
  if (sync_failed_) throw StorageError(fmt::format("{}: an earlier sync failed", bytes_path_.string()));
  std::vector<std::byte> entries;
  {
    const std::lock_guard lock(mutex_);
    entries.swap(pending_);
    syncing_since_ = std::exchange(pending_since_, std::nullopt);
  }
  if (entries.empty()) return;
  sync_failed_ = true;
  machine_.sync(bytes_.get(), bytes_path_);
  write_at(journal_.get(), journal_path_, entries, journal_end_);
  machine_.sync(journal_.get(), journal_path_);
  journal_end_ += entries.size();
  sync_failed_ = false;
  const std::lock_guard lock(mutex_);
  syncing_since_.reset();
}

PartsFound read_parts(const fs::path& directory, const Digest& options) {
  PartsFound found;
  for (const fs::directory_entry& file : fs::directory_iterator(directory)) {
    const int part = part_number(file.path());
    if (part < 0) continue;
    found.next_part = std::max(found.next_part, part + 1);
    if (file.path().extension() == ".journal") read_journal(file.path(), part, options, found.entries);
  }
  return found;
}

}  // namespace credence
