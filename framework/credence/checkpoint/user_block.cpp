#include "credence/checkpoint/user_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "credence/base/errors.h"

namespace credence::checkpoints {
namespace {

constexpr std::array<char, 8> kMagic = {'C', 'R', 'E', 'D', 'E', 'N', 'C', 'E'};
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kBlockBytesAt = 12;
constexpr std::size_t kFileBytesAt = 16;
constexpr std::size_t kContentAt = 24;
constexpr std::size_t kZerosAt = 40;
constexpr std::size_t kBlockDigestAt = kUserBlockBytes - sizeof(Digest);

template <class T>
void put(UserBlockBytes& bytes, std::size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

template <class T>
T get(const UserBlockBytes& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

Digest digest_of_block(const UserBlockBytes& bytes) {
  return digest_of(std::span(bytes).first(kBlockDigestAt));
}

}  // namespace

UserBlockBytes encode(const UserBlock& block) {
  UserBlockBytes bytes{};
  put(bytes, 0, kMagic);
  put(bytes, kVersionAt, kFormatVersion);
  put(bytes, kBlockBytesAt, static_cast<std::uint32_t>(kUserBlockBytes));
  put(bytes, kFileBytesAt, block.file_bytes);
  put(bytes, kContentAt, block.content);
  put(bytes, kBlockDigestAt, digest_of_block(bytes));
  return bytes;
}

UserBlock decode(const std::filesystem::path& file, const UserBlockBytes& bytes) {
  const std::string name = file.string();
  if (get<std::array<char, 8>>(bytes, 0) != kMagic) {
    throw DataError(fmt::format("{}: not a Credence checkpoint, or its first bytes are damaged", name));
  }
  if (get<Digest>(bytes, kBlockDigestAt) != digest_of_block(bytes)) {
    throw DataError(fmt::format("{}: damaged: the first {} bytes do not match their digest", name, kUserBlockBytes));
  }
  const auto version = get<std::uint32_t>(bytes, kVersionAt);
  if (version > kFormatVersion) {
    throw DataError(
        fmt::format("{}: written in checkpoint format {} by a newer Credence; this one reads formats up to {}", name,
                    version, kFormatVersion));
  }
  const auto zeros = std::span(bytes).subspan(kZerosAt, kBlockDigestAt - kZerosAt);
  if (version == 0 || get<std::uint32_t>(bytes, kBlockBytesAt) != kUserBlockBytes ||
      std::any_of(zeros.begin(), zeros.end(), [](std::byte byte) { return byte != std::byte{0}; })) {
    throw DataError(fmt::format("{}: the first {} bytes do not follow the checkpoint format", name, kUserBlockBytes));
  }
  return {get<std::uint64_t>(bytes, kFileBytesAt), get<Digest>(bytes, kContentAt)};
}

}  // namespace credence::checkpoints
