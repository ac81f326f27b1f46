#include "credence/checkpoint/state_dict.h"

#include <fcntl.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "credence/base/file_io.h"
#include "credence/checkpoint/safetensors.h"
#include "credence/checkpoint/torch_file.h"

namespace credence {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kZip = "PK\x03\x04"sv;
// A pickle of the number 0x1950a86a20f9469cfc6c.
constexpr std::string_view kLegacy = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv;

/// The first bytes of a file, fewer where it is shorter.
std::string beginning_of(const std::filesystem::path& file) {
  const auto descriptor = open_file(ExitCode::unusable_data, file, O_RDONLY | O_NONBLOCK);
  const std::uint64_t length = file_length(ExitCode::unusable_data, file, descriptor.get());
  std::string text(static_cast<std::size_t>(std::min<std::uint64_t>(length, kLegacy.size())), '\0');
  read_at(ExitCode::unusable_data, descriptor.get(), file, std::as_writable_bytes(std::span(text)), 0);
  return text;
}

class SafetensorsStateDict final : public StateDict {
 public:
  explicit SafetensorsStateDict(const std::filesystem::path& file) : StateDict(file), tensors_(file) {
    for (const auto& [name, tensor] : tensors_.tensors()) shapes_[name] = tensor.shape;
  }
  std::vector<double> read_doubles(const std::string& name) const override { return tensors_.read_doubles(name); }

 private:
  SafetensorsFile tensors_;
};

}  // namespace

std::unique_ptr<StateDict> open_state_dict(const std::filesystem::path& file) {
  const std::string beginning = beginning_of(file);
  if (beginning.starts_with(kZip)) return checkpoints::open_torch_archive(file);
  if (beginning.starts_with(kLegacy)) return checkpoints::open_legacy_torch_file(file);
  return std::make_unique<SafetensorsStateDict>(file);
}

bool may_be_state_dict(const std::filesystem::path& file) {
  const std::string beginning = beginning_of(file);
  // Eight bytes of length, then JSON.
  return beginning.starts_with(kZip) || beginning.starts_with(kLegacy) ||
         (beginning.size() > 8 && beginning[8] == '{') || file.extension() == ".safetensors";
}

}  // namespace credence
