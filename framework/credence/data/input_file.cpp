#include "credence/data/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <new>
#include <system_error>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"

namespace credence {
namespace {

constexpr std::uint64_t kMostDeflation = 1032;  // deflate's limit, zlib's technical notes
constexpr std::size_t kPieceBytes = std::size_t{1} << 18;

std::string cause(int error) {
  return std::generic_category().message(error);
}

}  // namespace

struct InputFile::Packed {
  Packed() : bytes(kPieceBytes) {
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) throw std::bad_alloc();
  }
  ~Packed() { inflateEnd(&stream); }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  z_stream stream{};
  std::vector<std::uint8_t> bytes;
  bool member_ended = false;  // gzip files may be concatenated
};

InputFile::InputFile(const std::filesystem::path& path) : name_(path.string()) {
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for its writer
  if (descriptor_ < 0) throw_error(kind_of_input_error(errno), fmt::format("cannot open {}: {}", name_, cause(errno)));
  try {
    struct stat status {};
    if (fstat(descriptor_, &status) != 0) throw StorageError(fmt::format("cannot read {}: {}", name_, cause(errno)));
    if (!S_ISREG(status.st_mode)) throw DataError(fmt::format("{} is not a regular file", name_));
    const auto bytes = static_cast<std::uint64_t>(status.st_size);
    std::array<std::uint8_t, 2> magic{};
    const std::size_t found = read_raw(magic);
    if (lseek(descriptor_, 0, SEEK_SET) != 0)
      throw StorageError(fmt::format("cannot read {}: {}", name_, cause(errno)));
    most_bytes_ = bytes;
    if (found == 2 && magic[0] == 0x1f && magic[1] == 0x8b) {
      packed_ = std::make_unique<Packed>();
      most_bytes_ = std::min(bytes, std::numeric_limits<std::uint64_t>::max() / kMostDeflation) * kMostDeflation;
    }
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

InputFile::~InputFile() {
  close(descriptor_);
}

std::size_t InputFile::read_raw(std::span<std::uint8_t> to) {
  std::size_t done = 0;
  while (done < to.size()) {
    const ssize_t count = ::read(descriptor_, to.data() + done, to.size() - done);
    if (count == 0) break;
    if (count > 0)
      done += static_cast<std::size_t>(count);
    else if (errno != EINTR)
      throw StorageError(fmt::format("cannot read {}: {}", name_, cause(errno)));
  }
  return done;
}

std::size_t InputFile::unpack(std::span<std::uint8_t> to) {
  z_stream& stream = packed_->stream;
  std::size_t done = 0;
  while (done < to.size()) {
    if (stream.avail_in == 0) {
      const std::size_t count = read_raw(packed_->bytes);
      if (count == 0 && packed_->member_ended) break;
      if (count == 0) throw DataError(fmt::format("{} is truncated: it ends in the middle of its gzip data", name_));
      stream.next_in = packed_->bytes.data();
      stream.avail_in = static_cast<uInt>(count);
    }
    if (packed_->member_ended) {
      inflateReset(&stream);
      packed_->member_ended = false;
    }
    const std::size_t room = std::min(to.size() - done, kPieceBytes);
    stream.next_out = to.data() + done;
    stream.avail_out = static_cast<uInt>(room);
    const int result = inflate(&stream, Z_NO_FLUSH);
    done += room - stream.avail_out;
    if (result == Z_STREAM_END)
      packed_->member_ended = true;
    else if (result == Z_MEM_ERROR)
      throw std::bad_alloc();
    else if (result != Z_OK && result != Z_BUF_ERROR)
      throw DataError(fmt::format("{} is damaged: its gzip data cannot be unpacked ({})", name_,
                                  stream.msg != nullptr ? stream.msg : "no reason given"));
  }
  return done;
}

std::size_t InputFile::read(std::span<std::uint8_t> to) {
  return packed_ ? unpack(to) : read_raw(to);
}

std::string InputFile::read_all() {
  std::string text;
  std::vector<std::uint8_t> chunk(kPieceBytes);
  if (!packed_) text.reserve(most_bytes_);
  for (;;) {
    const std::size_t count = read(chunk);
    text.append(chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(count));
    if (count < chunk.size()) return text;
  }
}

}  // namespace credence
