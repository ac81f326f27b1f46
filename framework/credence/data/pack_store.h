#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "credence/base/file_io.h"
#include "credence/data/image_store.h"
#include "credence/data/pack_format.h"
#include "credence/data/split.h"

namespace credence {

/// A file of `credence pack` (pack_format.h), read by offset without HDF5. Everything but the images' bytes is checked
/// when it is opened, a record's digest whenever it is read. DataError names the file and what is wrong.
class PackStore final : public ImageStore {
 public:
  PackStore(const std::filesystem::path& file, Split split);

  std::string name(std::int64_t record) const override;
  std::string path(std::int64_t record) const override;
  StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const override;
  void add_to(ContentDigest& digest) const override;
  Digest fingerprint(std::int64_t record) const override;

 private:
  void read_tables();
  void check_records() const;
  void choose(Split split);
  /// Where the record is in the tables.
  std::size_t row(std::int64_t record) const { return rows_[static_cast<std::size_t>(record)]; }

  std::filesystem::path file_;
  Descriptor descriptor_;
  PackHeader header_;
  PackTables tables_;
  std::vector<std::size_t> path_ends_;
  std::vector<std::uint32_t> rows_;  // of this split
};

}  // namespace credence
