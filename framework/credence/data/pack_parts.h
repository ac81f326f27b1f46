#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "credence/base/digest.h"
#include "credence/base/file_io.h"
#include "credence/base/stopwatch.h"
#include "credence/data/pack_record.h"

namespace credence {

// A pack in progress is a folder of part files, each with a journal: part-0003.bytes holds records' bytes, and
// part-0003.journal one entry of 64 bytes for each, written once the bytes are on the disk. What a killed pack left is
// what its journals list; later runs, of any number of processes, add parts of their own.

/// One record that is done.
struct PartEntry {
  std::int64_t record = 0;
  std::int64_t offset = 0;  // in the part
  std::int64_t length = 0;
  std::int32_t height = 0;
  std::int32_t width = 0;
  std::uint8_t encoding = 0;
  bool bad = false;  // could not be read, and has no bytes
  Digest digest{};
};

/// An entry and the part it lies in.
struct PlacedEntry {
  int part = 0;
  PartEntry entry;
};

/// Appends records to a new part. StorageError. Not thread safe.
class PartWriter {
 public:
  /// `job`: digest of what is packed and how; parts of another job are refused when they are read.
  PartWriter(const std::filesystem::path& directory, int part, const Digest& job);

  void append(std::int64_t record, const PackedImage& image);
  void append_bad(std::int64_t record);
  /// Syncs once the last time is so long ago: what a kill can lose.
  void sync_if_due(double seconds);
  void sync();

 private:
  void note(const PartEntry& entry);

  std::filesystem::path bytes_path_;
  std::filesystem::path journal_path_;
  Descriptor bytes_;
  Descriptor journal_;
  std::uint64_t bytes_end_ = 0;
  std::uint64_t journal_end_ = 0;
  std::vector<std::byte> pending_;  // entries whose bytes are not yet synced
  Stopwatch since_sync_;
};

std::filesystem::path part_file(const std::filesystem::path& directory, int part);

/// What the parts in a folder hold; an entry that was cut short or damaged ends its journal. `next_part`: a number that
/// no part has. UserError where a part is of another job.
struct PartsFound {
  std::vector<PlacedEntry> entries;
  int next_part = 0;
};
PartsFound read_parts(const std::filesystem::path& directory, const Digest& job);

}  // namespace credence
