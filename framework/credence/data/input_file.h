#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace credence {

/// A file read from its beginning to its end, unpacked on the way where it is gzip (told by content, not by name).
/// DataError names the file that is not there, ends early or is damaged; StorageError one that cannot be read.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const noexcept { return name_; }
  /// The most bytes that it can hold, unpacked; an upper bound that is never far too small or overflows.
  std::uint64_t most_bytes() const noexcept { return most_bytes_; }

  /// Fills `to`; returns how many bytes there were, fewer only at the end. A checksum is verified at the end.
  std::size_t read(std::span<std::uint8_t> to);
  std::string read_all();

 private:
  struct Packed;
  std::size_t read_raw(std::span<std::uint8_t> to);
  std::size_t unpack(std::span<std::uint8_t> to);

  std::string name_;
  int descriptor_ = -1;
  std::uint64_t most_bytes_ = 0;
  std::unique_ptr<Packed> packed_;  // null: the file is plain
};

}  // namespace credence
