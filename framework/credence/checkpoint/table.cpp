#include "credence/checkpoint/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "credence/base/errors.h"

namespace credence::checkpoints {
namespace {

class Writer {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }
  void text(const std::string& value) {
    number(static_cast<std::uint64_t>(value.size()));
    out_ += value;
  }
  void array(const StoredArray& array) {
    text(array.name);
    number(static_cast<std::uint8_t>(array.dtype));
    number(static_cast<std::uint64_t>(array.shape.size()));
    for (const std::int64_t extent : array.shape) number(extent);
    number(array.offset);
    number(array.bytes);
    text(array.digest);
  }
  void attribute(const Attribute& value) {
    number(static_cast<std::uint8_t>(value.index()));
    if (const auto* integer = std::get_if<std::int64_t>(&value)) number(*integer);
    if (const auto* real = std::get_if<double>(&value)) number(*real);
    if (const auto* characters = std::get_if<std::string>(&value)) text(*characters);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class Reader {
 public:
  Reader(const std::filesystem::path& file, std::string_view in) : file_(file), in_(in) {}

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  /// How many of something follow, each at least a byte long.
  std::uint64_t count() {
    const auto value = number<std::uint64_t>();
    if (value > in_.size()) fail();
    return value;
  }
  std::string text() { return std::string(take(count())); }
  StoredArray array() {
    StoredArray array;
    array.name = text();
    const auto dtype = number<std::uint8_t>();
    if (dtype > static_cast<std::uint8_t>(DType::uint8)) fail();
    array.dtype = static_cast<DType>(dtype);
    array.shape.resize(count());
    for (std::int64_t& extent : array.shape) extent = number<std::int64_t>();
    array.offset = number<std::uint64_t>();
    array.bytes = number<std::uint64_t>();
    array.digest = text();
    return array;
  }
  Attribute attribute() {
    switch (number<std::uint8_t>()) {
      case 0:
        return number<std::int64_t>();
      case 1:
        return number<double>();
      case 2:
        return text();
      default:
        fail();
    }
  }
  void expect_end() {
    if (!in_.empty()) fail();
  }

 private:
  std::string_view take(std::uint64_t bytes) {
    if (bytes > in_.size()) fail();
    const auto head = in_.substr(0, bytes);
    in_.remove_prefix(bytes);
    return head;
  }
  [[noreturn]] void fail() const {
    throw DataError(
        fmt::format("{}: its inspection gave a garbled answer; the file is not safe to use", file_.string()));
  }

  std::filesystem::path file_;
  std::string_view in_;
};

}  // namespace

std::string serialize(const Table& table) {
  Writer out;
  out.number(static_cast<std::uint64_t>(table.arrays.size()));
  for (const StoredArray& array : table.arrays) out.array(array);
  out.array(table.config);
  out.number(static_cast<std::uint64_t>(table.attributes.size()));
  for (const auto& [path, attributes] : table.attributes) {
    out.text(path);
    out.number(static_cast<std::uint64_t>(attributes.size()));
    for (const auto& [name, value] : attributes) {
      out.text(name);
      out.attribute(value);
    }
  }
  return out.take();
}

Table parse_table(const std::filesystem::path& file, std::string_view bytes) {
  Reader in(file, bytes);
  Table table;
  for (auto left = in.count(); left > 0; --left) table.arrays.push_back(in.array());
  table.config = in.array();
  for (auto paths = in.count(); paths > 0; --paths) {
    auto& attributes = table.attributes[in.text()];
    for (auto left = in.count(); left > 0; --left) {
      const std::string name = in.text();
      attributes[name] = in.attribute();
    }
  }
  in.expect_end();
  return table;
}

void check_table(const std::filesystem::path& file, const Table& table, std::uint64_t file_bytes) {
  const auto refuse = [&](const std::string& subject, const std::string& why) {
    throw DataError(fmt::format("{}: '{}' {}", file.string(), subject, why));
  };
  std::vector<const StoredArray*> placed{&table.config};
  const std::string* previous = nullptr;
  for (const StoredArray& array : table.arrays) {
    if (const auto why = reason_against(array.name, array.dtype, array.shape); !why.empty()) refuse(array.name, why);
    if (previous != nullptr && *previous >= array.name) refuse(array.name, "is out of order");
    if (bytes_of(array.dtype, array.shape) != array.bytes) refuse(array.name, "has a shape that its bytes do not fill");
    previous = &array.name;
    placed.push_back(&array);
  }
  std::sort(placed.begin(), placed.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  std::uint64_t end = 0;
  for (const StoredArray* array : placed) {
    if (array->digest.size() != 32) refuse(array->name, "has no digest");
    if (array->bytes == 0) continue;
    if (array->offset > file_bytes || array->bytes > file_bytes - array->offset) {
      refuse(array->name, "lies outside the file");
    }
    if (array->offset < end) refuse(array->name, "overlaps another array");
    end = array->offset + array->bytes;
  }
  const auto root = table.attributes.find("");
  if (root == table.attributes.end()) refuse("/", "has no attributes");
  if (const auto why = reason_against_file_attributes(root->second); !why.empty()) refuse("/", why);
}

}  // namespace credence::checkpoints
