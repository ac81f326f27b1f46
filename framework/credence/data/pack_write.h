#pragma once

#include <cstdint>
#include <filesystem>
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

/// One of them, by its number in its store.
struct PackRecord {
  const ImageStore* store;
  std::int64_t number;
  PackSplit split;
};
PackRecord record_of(const std::vector<PackSource>& sources, std::int64_t record);

/// What journals know the records by: the digests of split, path and fingerprint. Whatever else changes in the data, a
/// record with the same key needs not be packed again.
std::vector<Digest> record_keys(const std::vector<PackSource>& sources);

/// Of each record that has any, the good entry, or else a bad one, in the records' order.
std::vector<PlacedEntry> entries_of(const std::vector<Digest>& keys, const std::vector<PlacedEntry>& found);

/// The tables of a pack of good entries, one after the other.
PackTables tables_of(const std::vector<PackSource>& sources, const std::vector<PlacedEntry>& entries);

/// Makes an HDF5 file with these tables, attributes, and room for the images' bytes (holes in the file for now); fills
/// the extents of the header, which is not in the file yet, and its length. StorageError.
void create_pack(const std::filesystem::path& file, const PackTables& tables, PackHeader& header);

}  // namespace credence
