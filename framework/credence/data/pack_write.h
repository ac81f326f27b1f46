#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "credence/data/image_store.h"
#include "credence/data/pack_format.h"
#include "credence/data/pack_parts.h"

namespace credence {

/// The records of a pack: those of the training split, then those of the test split.
struct PackSource {
  const ImageStore* store = nullptr;
  PackSplit split = PackSplit::both;
};

/// Assembles the packed file of what the parts hold, records in their order, the bad ones left out; under a temporary
/// name, synced, its tables read back, renamed. `progress` counts records and may be read meanwhile. DataError for a
/// part whose bytes are not what its journal says, StorageError.
void write_pack(const std::filesystem::path& file, const std::filesystem::path& parts,
                const std::vector<PackSource>& sources, std::vector<PlacedEntry> entries,
                std::atomic<std::int64_t>& progress);

}  // namespace credence
