#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "credence/base/errors.h"
#include "credence/checkpoint/checkpoint.h"
#include "credence/checkpoint/verified_file.h"

namespace credence {
namespace checkpoints {
namespace {

constexpr std::size_t kNamedAtMost = 8;

/// What can be said about a file whose content does not match its digest.
std::string describe_damage(const OpenedFile& opened) {
  std::vector<std::string> damaged;
  try {
    damaged = damaged_arrays(opened, inspect(opened));
  } catch (const DataError&) {
    return "its structure is damaged";
  }
  if (damaged.empty()) return "outside its arrays";
  const std::size_t more = damaged.size() - std::min(damaged.size(), kNamedAtMost);
  damaged.resize(damaged.size() - more);
  return fmt::format("in {}{}", fmt::join(damaged, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
}

std::string describe(const ArrayView& array) {
  return fmt::format("{} [{}]", name_of(array.dtype), fmt::join(array.shape, ", "));
}

template <class T>
void convert(std::span<const std::byte> bytes, std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<double>(value);
  }
}

}  // namespace
}  // namespace checkpoints

struct Checkpoint::State {
  checkpoints::OpenedFile opened;
  Digest content{};
  checkpoints::Table table;
  std::string config;
  std::vector<ArrayView> arrays;

  const checkpoints::StoredArray& find(const std::string& name) const {
    const auto found = std::lower_bound(table.arrays.begin(), table.arrays.end(), name,
                                        [](const auto& array, const std::string& key) { return array.name < key; });
    if (found == table.arrays.end() || found->name != name) {
      throw DataError(fmt::format("{}: holds no array '{}'", opened.file.string(), name));
    }
    return *found;
  }
  void fill(const checkpoints::StoredArray& stored, std::span<std::byte> bytes) const {
    read_at(ExitCode::unusable_data, opened.descriptor.get(), opened.file, bytes, stored.offset);
    if (hexadecimal(digest_of(bytes)) != stored.digest) {
      throw DataError(fmt::format("{}: damaged: '{}' does not match its digest", opened.file.string(), stored.name));
    }
  }
};

Checkpoint::Checkpoint(const std::filesystem::path& file) : state_(std::make_unique<State>()) {
  using namespace checkpoints;
  state_->opened = open_for_reading(file);
  const UserBlock block = check_user_block(state_->opened);
  if (!content_matches(state_->opened, block)) {
    throw DataError(fmt::format("{}: damaged: its content does not match its digest ({})", file.string(),
                                describe_damage(state_->opened)));
  }
  state_->content = block.content;
  state_->table = inspect(state_->opened);
  state_->config.resize(state_->table.config.bytes);
  state_->fill(state_->table.config, std::as_writable_bytes(std::span(state_->config)));
  state_->config.resize(std::min(state_->config.size(), state_->config.find('\0')));
  for (const StoredArray& array : state_->table.arrays) {
    state_->arrays.push_back({array.name, array.dtype, array.shape, nullptr});
  }
}

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

const std::filesystem::path& Checkpoint::file() const {
  return state_->opened.file;
}

std::string Checkpoint::digest() const {
  return hexadecimal(state_->content);
}

const std::map<std::string, Attribute>& Checkpoint::attributes() const {
  return state_->table.attributes.at("");
}

std::int64_t Checkpoint::integer(const std::string& attribute) const {
  const auto found = attributes().find(attribute);
  if (found == attributes().end()) {
    throw DataError(fmt::format("{}: lacks the attribute '{}'", file().string(), attribute));
  }
  const auto* value = std::get_if<std::int64_t>(&found->second);
  if (value == nullptr) {
    throw DataError(fmt::format("{}: the attribute '{}' is not an integer", file().string(), attribute));
  }
  return *value;
}

const std::string& Checkpoint::config() const {
  return state_->config;
}

const std::map<std::string, Attribute>& Checkpoint::attributes_of(const std::string& path) const {
  static const std::map<std::string, Attribute> none;
  const auto found = state_->table.attributes.find(path);
  return found == state_->table.attributes.end() ? none : found->second;
}

const std::vector<ArrayView>& Checkpoint::arrays() const {
  return state_->arrays;
}

bool Checkpoint::contains(const std::string& name) const {
  return std::binary_search(state_->arrays.begin(), state_->arrays.end(), ArrayView{name, {}, {}, nullptr},
                            [](const ArrayView& a, const ArrayView& b) { return a.name < b.name; });
}

void Checkpoint::read(const ArrayView& array) const {
  const auto& stored = state_->find(array.name);
  if (stored.dtype != array.dtype || stored.shape != array.shape) {
    throw DataError(fmt::format("{}: '{}' is {}, not {}", file().string(), array.name,
                                checkpoints::describe({stored.name, stored.dtype, stored.shape, nullptr}),
                                checkpoints::describe(array)));
  }
  ensure(stored.bytes == 0 || array.data != nullptr, "an array to read into has no memory");
  state_->fill(stored, {static_cast<std::byte*>(array.data), stored.bytes});
}

std::vector<double> Checkpoint::read_doubles(const std::string& name) const {
  const auto& stored = state_->find(name);
  std::vector<double> values(stored.bytes / size_of(stored.dtype));
  if (stored.dtype == DType::float64) {
    state_->fill(stored, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::vector<std::byte> bytes(stored.bytes);
  state_->fill(stored, bytes);
  switch (stored.dtype) {
    case DType::float32:
      checkpoints::convert<float>(bytes, values);
      break;
    case DType::int64:
      checkpoints::convert<std::int64_t>(bytes, values);
      break;
    case DType::uint8:
      checkpoints::convert<std::uint8_t>(bytes, values);
      break;
    case DType::float64:
      break;
  }
  return values;
}

}  // namespace credence
