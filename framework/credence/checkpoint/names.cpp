// Which names, shapes and attributes the format allows. FORMAT.md, "Names", says the same in words.

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/checkpoint/table.h"
#include "credence/checkpoint/user_block.h"

namespace credence::checkpoints {
namespace {

constexpr std::size_t kMaximumNameBytes = 512;
constexpr std::size_t kMaximumDepth = 8;
constexpr std::size_t kMaximumRank = 32;  // HDF5's own

bool is_plain(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= kMaximumNameBytes &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

struct Group {
  const char* name;
  std::size_t parts;
  const char* form;
};
constexpr Group kGroups[] = {
    {"posterior", 3, "posterior/TENSOR/KIND"}, {"optimizer", 3, "optimizer/SLOT/TENSOR"},
    {"buffers", 2, "buffers/TENSOR"},          {"prior", 3, "prior/TENSOR/KIND"},
    {"history", 2, "history/SERIES"},
};

}  // namespace

std::string reason_against_path(const std::string& path) {
  const auto parts = split(path, '/');
  if (parts.empty() || parts.size() > kMaximumDepth) return fmt::format("must have 1 to {} parts", kMaximumDepth);
  if (!std::all_of(parts.begin(), parts.end(), is_plain)) {
    return fmt::format("must have parts of 1 to {} bytes, none '.' or '..', without control characters",
                       kMaximumNameBytes);
  }
  return {};
}

std::string reason_against_attribute(const std::string& name) {
  if (!is_plain(name)) return "is not a name for an attribute";
  return name == kDigestAttribute ? "is the name of the digest that the writer adds" : "";
}

std::string reason_against(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape) {
  if (const auto why = reason_against_path(name); !why.empty()) return why;
  const auto parts = split(name, '/');
  if (parts.size() == 1) return "must lie in a group";
  for (const Group& group : kGroups) {
    if (parts[0] == group.name && parts.size() != group.parts) {
      return fmt::format("has {} parts where the format has {} (the name of a tensor must not contain '/')",
                         parts.size(), group.form);
    }
  }
  if (parts[0] == "history" && (shape.size() != 1 || dtype != DType::float64))
    return "must be float64 of one dimension";
  if (shape.size() > kMaximumRank) return fmt::format("has more than {} dimensions", kMaximumRank);
  return bytes_of(dtype, shape) ? "" : "has an impossible shape";
}

std::string reason_against_file_attributes(const std::map<std::string, Attribute>& attributes) {
  const auto find = [&](const char* name) -> const Attribute* {
    const auto found = attributes.find(name);
    return found == attributes.end() ? nullptr : &found->second;
  };
  const Attribute* format = find("format");
  if (format == nullptr || *format != Attribute(std::string(kFormatName))) {
    return fmt::format("needs the attribute format = '{}'", kFormatName);
  }
  for (const char* name : {"format_version", "step", "seed", "shards", "world_size", "dataset_size", "complete"}) {
    const Attribute* value = find(name);
    if (value == nullptr) return fmt::format("lacks the attribute '{}'", name);
    if (!std::holds_alternative<std::int64_t>(*value)) return fmt::format("needs an integer as attribute '{}'", name);
  }
  const Attribute* epoch = find("epoch");
  if (epoch == nullptr) return "lacks the attribute 'epoch'";
  if (std::holds_alternative<std::string>(*epoch)) return "needs a number as attribute 'epoch'";
  if (std::get<std::int64_t>(*find("format_version")) != kFormatVersion) {
    return "has another format_version than its first bytes";
  }
  return std::get<std::int64_t>(*find("complete")) == 1 ? "" : "is not marked complete";
}

std::optional<std::uint64_t> bytes_of(DType dtype, const std::vector<std::int64_t>& shape) {
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent < 0; })) return std::nullopt;
  // Empty dimensions are left out here, so that no order of multiplication can overflow later.
  std::uint64_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape) {
    const auto factor = static_cast<std::uint64_t>(std::max<std::int64_t>(extent, 1));
    if (bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / factor) return std::nullopt;
    bytes *= factor;
  }
  return std::count(shape.begin(), shape.end(), 0) > 0 ? 0 : bytes;
}

}  // namespace credence::checkpoints

namespace credence {

std::string checkpoint_name(std::int64_t step) {
  ensure(step >= 0, "a checkpoint's step is negative");
  return fmt::format("checkpoint-{:08}.h5", step);
}

}  // namespace credence
