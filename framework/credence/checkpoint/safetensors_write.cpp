// How a safetensors file is written; reading is in safetensors.cpp.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/checkpoint/safetensors.h"

namespace credence {
namespace {

constexpr std::size_t kAlignment = 8;

const char* type_name(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "F32";
    case DType::float64:
      return "F64";
    case DType::int64:
      return "I64";
    case DType::uint8:
      return "U8";
  }
  throw InternalError("no safetensors type for this element type");
}

}  // namespace

void write_safetensors(const std::filesystem::path& file, const std::map<std::string, std::string>& metadata,
                       std::span<const ArrayView> arrays) {
  // Larger elements first, so that each tensor is aligned.
  std::vector<const ArrayView*> order;
  for (const ArrayView& array : arrays) order.push_back(&array);
  std::ranges::sort(order, [](const ArrayView* a, const ArrayView* b) {
    return std::pair(-static_cast<int>(size_of(a->dtype)), a->name) <
           std::pair(-static_cast<int>(size_of(b->dtype)), b->name);
  });

  nlohmann::json header = {{"__metadata__", metadata}};
  std::size_t end = 0;
  for (const ArrayView* array : order) {
    require(!header.contains(array->name), "two tensors would be named {} in {}", array->name, file.string());
    const std::size_t begin = end;
    end += array->bytes();
    header[array->name] = {{"dtype", type_name(array->dtype)}, {"shape", array->shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');

  TemporaryFile temporary(file);
  std::uint64_t offset = 0;
  const auto append = [&](std::span<const std::byte> bytes) {
    write_at(temporary.fd(), temporary.path(), bytes, offset);
    offset += bytes.size();
  };
  const auto length = static_cast<std::uint64_t>(text.size());
  append(std::as_bytes(std::span(&length, 1)));
  append(std::as_bytes(std::span(text)));
  for (const ArrayView* array : order) append({static_cast<const std::byte*>(array->data), array->bytes()});
  temporary.sync_and_close();
  temporary.publish();
}

}  // namespace credence
