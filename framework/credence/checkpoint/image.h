#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "credence/base/file_io.h"
#include "credence/checkpoint/checkpoint.h"
#include "credence/checkpoint/table.h"

namespace credence::checkpoints {

/// The bytes of a checkpoint file, from byte 512 on, without a second copy of the arrays.
///
/// HDF5 lays the file out in an anonymous memory file, in which it reserves the space of every array and writes none of
/// it, so that only the structure takes memory (some 0.5 KB an array). The array's bytes are taken from the caller's
/// memory where they belong. Thus HDF5 never meets a full disk (it survives one badly and reports it late), each byte
/// reaches the disk through a write() of ours whose result is checked, and the digests are computed over memory, not
/// over what was read back.
class CheckpointImage {
 public:
  /// `file` is named in errors. `contents` must outlive the image. InternalError or UserError where the contents break
  /// the format.
  CheckpointImage(const std::filesystem::path& file, const CheckpointContents& contents);

  std::uint64_t bytes() const { return bytes_; }
  /// Calls `consume(bytes, offset)` for everything from byte 512 to the end, in order, in pieces of at most
  /// kChunkBytes.
  void for_each_piece(const std::function<void(std::span<const std::byte>, std::uint64_t)>& consume) const;

 private:
  struct Segment {
    std::uint64_t offset = 0;
    std::span<const std::byte> bytes;
  };
  void add_array(const ArrayView& array);
  void lay_out();
  void check_size_limit() const;  // RLIMIT_FSIZE
  void structure(std::uint64_t begin, std::uint64_t end,
                 const std::function<void(std::span<const std::byte>, std::uint64_t)>& consume) const;

  std::filesystem::path file_;
  std::string config_;
  Table table_;
  std::vector<Segment> segments_;  // of arrays, in file order
  Descriptor memory_;
  std::uint64_t bytes_ = 0;
};

}  // namespace credence::checkpoints
