#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "credence/base/file_io.h"

namespace credence {

/// The entries of a zip archive, stored as they are or deflated (PKWARE's APPNOTE 6.3.10, zip64 included): what
/// torch.save and torch.jit.save write. Trusts nothing; DataError names the file and what is wrong.
class ZipArchive {
 public:
  explicit ZipArchive(const std::filesystem::path& file);

  struct Entry {
    std::uint64_t header = 0;  // place of its local header
    std::uint64_t bytes = 0;
    std::uint64_t stored_bytes = 0;  // in the archive; as many where it is not deflated
    std::uint32_t checksum = 0;
    bool deflated = false;
  };
  const std::filesystem::path& file() const { return file_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// A whole entry of at most so many bytes, its checksum compared.
  std::vector<std::byte> read(const std::string& name, std::uint64_t most_bytes) const;

 private:
  struct Directory {
    std::uint64_t offset = 0, bytes = 0, entries = 0;
  };
  [[noreturn]] void refuse(const std::string& why) const;
  std::vector<std::byte> read_bytes(std::uint64_t offset, std::uint64_t bytes) const;
  Directory find_directory() const;
  Directory find_large_directory(std::uint64_t end_record) const;
  void read_directory(const Directory& directory);

  std::filesystem::path file_;
  Descriptor descriptor_;
  std::uint64_t length_ = 0;
  std::uint64_t data_end_ = 0;  // where the directory begins
  std::map<std::string, Entry> entries_;
};

}  // namespace credence
