#include "credence/data/pack_assembly.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <utility>

#include "credence/base/errors.h"
#include "credence/data/pack_store.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPieceBytes = std::size_t{8} << 20;      // written at a time
constexpr std::uint64_t kSyncBytes = std::uint64_t{64} << 20;  // synced at a time: half a second of a slow disk

/// As in the file beside an assembly: how many of its records are on the disk. The check covers what is before it.
struct Progress {
  Digest tables;
  std::int64_t copied;
  std::uint64_t check;
};
static_assert(sizeof(Progress) == 32);

std::uint64_t check_of(const Progress& progress) {
  return XXH3_64bits(&progress, offsetof(Progress, check));
}

PackHeader header_of(const PackTables& tables, const ImageStore& store, const Digest& job) {
  PackHeader header;
  header.records = tables.records();
  header.classes = static_cast<std::uint64_t>(store.classes());
  header.channels = static_cast<std::uint32_t>(store.channels());
  header.common_size = tables.common_size();
  header.normalization = store.normalization();
  header.tables = tables.combined_digest();
  header.job = job;
  return header;
}

/// The header of a packed file that has the length it says; DataError for any other.
PackHeader read_header(const fs::path& file, int fd) {
  PackUserBlock block;
  read_input_at(fd, file, block, 0);
  PackHeader header = decode_pack_header(block);
  if (file_length(ExitCode::unusable_data, file, fd) != header.file_bytes) throw DataError("it is truncated");
  return header;
}

/// Reads records' bytes out of the parts and compares their digests.
class PartReader {
 public:
  explicit PartReader(fs::path parts) : parts_(std::move(parts)) {}

  void append(const PlacedEntry& placed, std::vector<std::byte>& to) {
    const PartEntry& entry = placed.entry;
    const fs::path path = part_file(parts_, placed.part);
    auto& part = opened_[placed.part];
    if (!part) part = open_input(path).descriptor;
    const std::size_t begin = to.size();
    to.resize(begin + static_cast<std::size_t>(entry.length));
    const auto bytes = std::span(to).subspan(begin);
    read_input_at(part.get(), path, bytes, static_cast<std::uint64_t>(entry.offset));
    if (digest_of(bytes) != entry.digest)
      throw DataError(
          fmt::format("{}: the bytes of record {} are not those that were written; remove the folder to "
                      "start anew",
                      path.string(), placed.record));
  }

 private:
  fs::path parts_;
  std::map<int, Descriptor> opened_;
};

/// Whether the file's tables are found, and its first and last record.
bool reads_back(const fs::path& path, PackSplit split) {
  try {
    const PackStore store(path, split == PackSplit::test ? Split::test : Split::train);
    std::vector<std::uint8_t> buffer;
    store.read(0, buffer);
    store.read(store.size() - 1, buffer);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

}  // namespace

std::int64_t finished_records(const fs::path& file, const Digest& job) {
  if (!fs::is_regular_file(file)) return 0;
  try {
    const PackHeader header = read_header(file, open_input(file).descriptor.get());
    return header.job == job ? static_cast<std::int64_t>(header.records) : 0;
  } catch (const DataError&) {
    return 0;
  }
}

PackAssembly::PackAssembly(Plan plan, std::vector<PlacedEntry> entries, PackMachine machine)
    : plan_(std::move(plan)),
      entries_(std::move(entries)),
      machine_(std::move(machine)),
      path_(plan_.parts / "assembled.h5") {
  std::erase_if(entries_, [](const PlacedEntry& placed) { return placed.entry.bad; });
  if (entries_.empty()) throw DataError("there is no image to pack: none can be read");
  const PackTables tables = tables_of(plan_.sources, entries_);
  header_ = header_of(tables, *plan_.sources.front().store, plan_.job);
  progress_ = open_file(ExitCode::storage, progress_path(), O_RDWR | O_CREAT);
  if (!resume()) create(tables);
}

fs::path PackAssembly::progress_path() const {
  return plan_.parts / "assembled.progress";
}

bool PackAssembly::resume() {
  if (!fs::exists(path_)) return false;
  try {
    file_ = open_file(ExitCode::unusable_data, path_, O_RDWR);
    const PackHeader found = read_header(path_, file_.get());
    Progress progress{};
    read_at(ExitCode::unusable_data, progress_.get(), progress_path(), std::as_writable_bytes(std::span(&progress, 1)),
            0);
    const bool valid = progress.check == check_of(progress) && progress.tables == header_.tables &&
                       found.tables == header_.tables && found.job == header_.job && progress.copied >= 0 &&
                       progress.copied <= static_cast<std::int64_t>(entries_.size());
    if (!valid) return false;
    header_ = found;
    copied_ = progress.copied;
    return true;
  } catch (const DataError&) {  // killed or without power before it had a header
    return false;
  }
}

void PackAssembly::create(const PackTables& tables) {
  file_ = Descriptor();
  save();  // before anything else: of a file that begins anew nothing is done
  create_pack(path_, tables, header_);
  file_ = open_file(ExitCode::storage, path_, O_RDWR);
  write_at(file_.get(), path_, encode(header_), 0);
  sync_file(file_.get(), path_);
  sync_directory(plan_.parts);
}

void PackAssembly::save() {
  if (file_) machine_.sync(file_.get(), path_);
  Progress progress{header_.tables, copied_, 0};
  progress.check = check_of(progress);
  write_at(progress_.get(), progress_path(), std::as_bytes(std::span(&progress, 1)), 0);
  machine_.sync(progress_.get(), progress_path());
}

void PackAssembly::copy(std::atomic<std::int64_t>& progress, const std::function<bool()>& stopping) {
  PartReader parts(plan_.parts);
  std::vector<std::byte> piece;
  auto next = static_cast<std::size_t>(copied_);
  std::uint64_t end = header_.extents[0].offset;
  for (std::size_t i = 0; i < next; ++i) end += static_cast<std::uint64_t>(entries_[i].entry.length);
  std::uint64_t unsynced = 0;
  const auto write_piece = [&] {
    write_at(file_.get(), path_, piece, end);
    end += piece.size();
    unsynced += piece.size();
    piece.clear();
    copied_ = static_cast<std::int64_t>(next);
  };
  double saved = machine_.seconds();
  while (next < entries_.size() && !stopping()) {
    parts.append(entries_[next++], piece);
    progress.fetch_add(1, std::memory_order_relaxed);
    if (piece.size() >= kPieceBytes) write_piece();
    if (unsynced < kSyncBytes && machine_.seconds() - saved < kSyncSeconds) continue;
    write_piece();
    save();
    unsynced = 0;
    saved = machine_.seconds();
  }
  write_piece();
  save();
}

void PackAssembly::publish() {
  sync_file(file_.get(), path_);
  if (!reads_back(path_, plan_.sources.front().split)) {
    copied_ = 0;  // for whoever goes on
    save();
    throw StorageError(fmt::format("{}: what was written does not read back", path_.string()));
  }
  file_.close(path_);
  if (::rename(path_.c_str(), plan_.file.c_str()) != 0) fail_call(ExitCode::storage, plan_.file, "rename", errno);
  sync_directory(fs::absolute(plan_.file).parent_path());
}

}  // namespace credence
