#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "credence/checkpoint/run_directory.h"
#include "credence/data/image_store.h"
#include "credence/data/pack_parts.h"
#include "credence/data/pack_record.h"
#include "credence/data/pack_write.h"

namespace credence {

/// What a pack is made of and where, the same on every rank.
struct PackTask {
  std::filesystem::path file;
  std::filesystem::path parts;
  PackSettings settings;
  std::vector<std::unique_ptr<ImageStore>> stores;  // both splits where there are two
  std::vector<PackSource> sources;
  std::vector<Digest> keys;  // of all records
  Digest options{};          // how records are packed: what a stopped pack left can be used where this is the same
  Digest job{};              // how, and of what: a finished pack is this one where this is the same

  /// Opens the source and takes the digests. UserError, DataError.
  PackTask(const std::string& spec, const std::filesystem::path& to, const PackSettings& how);

  std::int64_t records() const { return static_cast<std::int64_t>(keys.size()); }
  /// Of the records that have one. UserError where parts hold entries and none of them is of this data.
  std::vector<PlacedEntry> entries(const PartsFound& found) const;
};

/// Those without a good entry: the bad ones are tried again, as somebody may have mended them.
std::vector<std::int64_t> records_left(const PackTask& task, const std::vector<PlacedEntry>& entries);
std::int64_t count_bad(const std::vector<PlacedEntry>& entries);

/// How many images the file holds if an earlier run finished it: what it left of the parts is removed then. Zero where
/// there is no file; UserError for any other file. For one rank.
std::int64_t find_finished(const PackTask& task);

/// StorageError.
void create_parts(const std::filesystem::path& parts);
/// Everything in the folder of the parts but its lock.
void empty_parts(const std::filesystem::path& parts);
/// Empties the folder, gives up its lock and removes it; what another pack has begun there since stays. StorageError.
void remove_parts(const std::filesystem::path& parts, std::unique_ptr<RunDirectoryLock> lock);

}  // namespace credence
