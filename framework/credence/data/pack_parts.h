#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "credence/base/digest.h"
#include "credence/base/file_io.h"
#include "credence/data/pack_record.h"

namespace credence {

// A pack in progress is a folder of part files, each with a journal: part-0003.bytes holds records' bytes, and
// part-0003.journal one entry of 80 bytes for each, written once the bytes are on the disk. What a killed pack left is
// what its journals list; later runs, of any number of processes, add parts of their own.

/// Between two syncs. What is done is on the disk within twice as long, or nothing more is taken on: what a kill can
/// lose is a second of work.
inline constexpr double kSyncSeconds = 0.5;

/// How seconds pass and how a file's bytes get to the disk; tests put others in their place.
struct PackMachine {
  std::function<double()> seconds;
  std::function<void(int fd, const std::filesystem::path& file)> sync;  // fdatasync; StorageError

  PackMachine();
};

/// One record that is done.
struct PartEntry {
  Digest key{};             // of the record: record_keys()
  std::int64_t offset = 0;  // in the part
  std::int64_t length = 0;
  std::int32_t height = 0;
  std::int32_t width = 0;
  std::uint8_t encoding = 0;
  bool bad = false;  // could not be read, and has no bytes
  Digest digest{};
};

/// An entry, the part it lies in, and the record of the data that it is, once that is known.
struct PlacedEntry {
  int part = 0;
  PartEntry entry;
  std::int64_t record = -1;
};

/// Appends records to a new part. StorageError. Thread safe; records are appended while others are being synced.
class PartWriter {
 public:
  /// `options`: digest of how records are packed; parts of other options are refused when they are read.
  PartWriter(const std::filesystem::path& directory, int part, const Digest& options, PackMachine machine = {});

  void append(const Digest& key, const PackedImage& image);
  void append_bad(const Digest& key);
  /// Syncs where something has waited for kSyncSeconds.
  void sync_if_due() { sync_after(kSyncSeconds); }
  void sync();

 private:
  void note(const PartEntry& entry);
  double seconds_unsynced();
  void sync_after(double seconds);
  void sync_all();  // the caller holds syncing_

  std::filesystem::path bytes_path_;
  std::filesystem::path journal_path_;
  PackMachine machine_;
  Descriptor bytes_;
  Descriptor journal_;
  std::mutex syncing_;  // never taken while mutex_ is held
  std::uint64_t journal_end_ = 0;
  bool sync_failed_ = false;
  std::mutex mutex_;  // of what is below
  std::uint64_t bytes_end_ = 0;
  std::vector<std::byte> pending_;       // entries whose bytes are written and not yet synced
  std::optional<double> pending_since_;  // by the machine's seconds
  std::optional<double> syncing_since_;  // the same of those that are being synced
};

std::filesystem::path part_file(const std::filesystem::path& directory, int part);

/// What the parts in a folder hold; an entry that was cut short or damaged ends its journal, and a journal whose
/// heading is not whole has none. `next_part`: no part has this number or a higher one. UserError where records were
/// packed with other options.
struct PartsFound {
  std::vector<PlacedEntry> entries;
  int next_part = 0;
};
PartsFound read_parts(const std::filesystem::path& directory, const Digest& options);

}  // namespace credence
