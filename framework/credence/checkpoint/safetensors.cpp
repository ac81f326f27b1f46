#include "credence/checkpoint/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "credence/base/file_io.h"
#include "credence/base/text.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLengthBytes = 8;
// Far above any model's: a tensor takes about a hundred bytes. JSON takes many times its size in memory.
constexpr std::uint64_t kMostHeaderBytes = 16U << 20;
constexpr std::size_t kMostDimensions = 32;
constexpr const char* kMetadata = "__metadata__";

struct TypeName {
  std::string_view name;
  ElementType type;
  std::uint64_t bytes;
};
constexpr TypeName kTypes[] = {
    {"F64", ElementType::f64, 8},    {"F32", ElementType::f32, 4},       {"F16", ElementType::f16, 2},
    {"BF16", ElementType::bf16, 2},  {"I64", ElementType::i64, 8},       {"U64", ElementType::other, 8},
    {"I32", ElementType::other, 4},  {"U32", ElementType::other, 4},     {"I16", ElementType::other, 2},
    {"U16", ElementType::other, 2},  {"I8", ElementType::other, 1},      {"U8", ElementType::other, 1},
    {"BOOL", ElementType::other, 1}, {"F8_E4M3", ElementType::other, 1}, {"F8_E5M2", ElementType::other, 1}};

/// The header's JSON. nlohmann-json keeps the last of two equal keys, so repeats are looked for while it parses; it
/// needs no stack for deep nesting.
nlohmann::json parse_header(const fs::path& file, std::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::optional<std::string> repeated;
  const auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      repeated = parsed.get<std::string>();
    return true;
  };
  nlohmann::json header = nlohmann::json::parse(text, watch, /*allow_exceptions=*/false);
  if (!header.is_object()) throw DataError(fmt::format("{}: the header is not a JSON object", file.string()));
  if (repeated) throw DataError(fmt::format("{}: the name '{}' is there twice", file.string(), shown(*repeated)));
  return header;
}

}  // namespace

struct SafetensorsFile::State {
  explicit State(const fs::path& path) : file(path) {
    // A pipe would wait for its writer.
    descriptor = open_file(ExitCode::unusable_data, file, O_RDONLY | O_NONBLOCK);
    length = file_length(ExitCode::unusable_data, file, descriptor.get());
  }

  [[noreturn]] void refuse(const std::string& why) const { throw DataError(fmt::format("{}: {}", file.string(), why)); }
  void read(std::span<std::byte> bytes, std::uint64_t offset) const {
    read_at(ExitCode::unusable_data, descriptor.get(), file, bytes, offset);
  }
  std::string read_header();
  void add_metadata(const nlohmann::json& values);
  void add_tensor(const std::string& name, const nlohmann::json& entry);
  std::uint64_t extent_of(const std::string& name, const nlohmann::json& shape, SafetensorsFile::Tensor& tensor) const;
  void check_places() const;

  fs::path file;
  Descriptor descriptor;
  std::uint64_t length = 0;
  std::uint64_t data_begin = 0;  // in the file
  std::map<std::string, std::string> metadata;
  std::map<std::string, SafetensorsFile::Tensor> tensors;
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> places;  // [begin, end) in the data
};

std::string SafetensorsFile::State::read_header() {
  if (length < kLengthBytes) refuse("is too short for a safetensors file");
  std::uint64_t header_bytes = 0;
  read(std::as_writable_bytes(std::span(&header_bytes, 1)), 0);
  if (header_bytes > length - kLengthBytes)
    refuse(fmt::format("is no safetensors file, or is truncated: its header claims {} bytes of the {} that there are",
                       header_bytes, length - kLengthBytes));
  if (header_bytes > kMostHeaderBytes)
    refuse(fmt::format("has a header of {} bytes, and at most {} are read", header_bytes, kMostHeaderBytes));
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  read(std::as_writable_bytes(std::span(text)), kLengthBytes);
  if (!text.starts_with('{')) refuse("is no safetensors file: its header does not begin with '{'");
  data_begin = kLengthBytes + header_bytes;
  return text;
}

void SafetensorsFile::State::add_metadata(const nlohmann::json& values) {
  if (!values.is_object()) refuse("its metadata is not a JSON object");
  for (const auto& [key, value] : values.items()) {
    if (!value.is_string()) refuse(fmt::format("the metadata '{}' is not a text", shown(key)));
    metadata[key] = value.get<std::string>();
  }
}

std::uint64_t SafetensorsFile::State::extent_of(const std::string& name, const nlohmann::json& shape,
                                                SafetensorsFile::Tensor& tensor) const {
  if (!shape.is_array() || shape.size() > kMostDimensions)
    refuse(fmt::format("the shape of '{}' is not a list of at most {} sizes", shown(name), kMostDimensions));
  std::uint64_t count = 1;
  for (const nlohmann::json& extent : shape) {
    if (!extent.is_number_unsigned()) refuse(fmt::format("the shape of '{}' holds what is no size", shown(name)));
    const auto size = extent.get<std::uint64_t>();
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(count, size, &count) || count > length)
      refuse(fmt::format("the shape of '{}' is larger than the file", shown(name)));
    tensor.shape.push_back(static_cast<std::int64_t>(size));
  }
  tensor.count = static_cast<std::int64_t>(count);
  return count;
}

void SafetensorsFile::State::add_tensor(const std::string& name, const nlohmann::json& entry) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets"))
    refuse(fmt::format("the entry '{}' must have dtype, shape and data_offsets", shown(name)));
  const nlohmann::json& dtype = entry["dtype"];
  const std::string spelled = dtype.is_string() ? dtype.get<std::string>() : "";
  const auto* known = std::ranges::find(kTypes, spelled, &TypeName::name);
  if (known == std::end(kTypes)) refuse(fmt::format("'{}' has the unknown type '{}'", shown(name), shown(spelled)));
  SafetensorsFile::Tensor tensor;
  tensor.type = known->type;
  const std::uint64_t count = extent_of(name, entry["shape"], tensor);
  const nlohmann::json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    refuse(fmt::format("the data_offsets of '{}' are not two positions", shown(name)));
  const auto begin = offsets[0].get<std::uint64_t>();
  const auto end = offsets[1].get<std::uint64_t>();
  if (begin > end || end > length - data_begin)
    refuse(fmt::format("the data_offsets of '{}' lie outside the file", shown(name)));
  // count <= length, so the product fits.
  if (end - begin != count * known->bytes)
    refuse(fmt::format("'{}' has {} bytes, and its shape [{}] of {} takes {}", shown(name), end - begin,
                       fmt::join(tensor.shape, ", "), known->name, count * known->bytes));
  places[name] = {begin, end};
  tensors[name] = std::move(tensor);
}

/// Every byte of the data belongs to exactly one tensor.
void SafetensorsFile::State::check_places() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> sorted;
  for (const auto& [name, place] : places) sorted.push_back(place);
  std::ranges::sort(sorted);
  std::uint64_t reached = 0;
  for (const auto& [begin, end] : sorted) {
    if (begin < reached) refuse(fmt::format("two tensors share the byte {} of the data", begin));
    if (begin > reached) refuse(fmt::format("the bytes from {} to {} of the data belong to no tensor", reached, begin));
    reached = end;
  }
  if (reached != length - data_begin)
    refuse(fmt::format("the bytes from {} to {} of the data belong to no tensor", reached, length - data_begin));
}

SafetensorsFile::SafetensorsFile(const fs::path& file) : state_(std::make_unique<State>(file)) {
  const nlohmann::json header = parse_header(file, state_->read_header());
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) {
      state_->add_metadata(entry);
    } else {
      state_->add_tensor(name, entry);
    }
  }
  state_->check_places();
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const fs::path& SafetensorsFile::file() const {
  return state_->file;
}

const std::map<std::string, SafetensorsFile::Tensor>& SafetensorsFile::tensors() const {
  return state_->tensors;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->metadata;
}

std::vector<double> SafetensorsFile::read_doubles(const std::string& name) const {
  const auto found = state_->tensors.find(name);
  if (found == state_->tensors.end()) state_->refuse(fmt::format("there is no tensor '{}'", shown(name)));
  if (found->second.type == ElementType::other)
    state_->refuse(fmt::format("the type of '{}' is not read: F64, F32, F16, BF16 and I64 are", shown(name)));
  const auto [begin, end] = state_->places.at(name);
  std::vector<std::byte> bytes(static_cast<std::size_t>(end - begin));
  state_->read(bytes, state_->data_begin + begin);
  std::vector<double> values(static_cast<std::size_t>(found->second.count));
  checkpoints::to_doubles(found->second.type, bytes, values);
  return values;
}

}  // namespace credence
