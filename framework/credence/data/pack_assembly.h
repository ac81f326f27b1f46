#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "credence/base/file_io.h"
#include "credence/data/pack_write.h"

namespace credence {

/// How many records a finished pack of this job holds; zero where the file is anything else.
std::int64_t finished_records(const std::filesystem::path& file, const Digest& job);

/// Assembles the packed file of what the parts hold, beside the parts. How far it is gets synced every kSyncSeconds and
/// at the end of copy(); another assembly of the same records and job in the same folder goes on from there. DataError
/// for a part whose bytes are not what its journal says, StorageError.
class PackAssembly {
 public:
  struct Plan {
    std::filesystem::path file;
    std::filesystem::path parts;
    std::vector<PackSource> sources;
    Digest job{};
  };
  /// Of the good ones of these entries; the bad ones are left out.
  PackAssembly(Plan plan, std::vector<PlacedEntry> entries, PackMachine machine = {});

  /// Records whose bytes are in the file.
  std::int64_t copied() const { return copied_; }
  /// Copies what is missing until that is done or `stopping`; counts it in `progress`, which may be read meanwhile.
  void copy(std::atomic<std::int64_t>& progress, const std::function<bool()>& stopping);
  bool complete() const { return copied_ == static_cast<std::int64_t>(entries_.size()); }
  /// Syncs, reads tables and some records back, and renames.
  void publish();

 private:
  std::filesystem::path progress_path() const;
  bool resume();
  void create(const PackTables& tables);
  void save();

  Plan plan_;
  std::vector<PlacedEntry> entries_;
  PackMachine machine_;
  std::filesystem::path path_;
  Descriptor file_;
  Descriptor progress_;
  PackHeader header_;
  std::int64_t copied_ = 0;
};

}  // namespace credence
