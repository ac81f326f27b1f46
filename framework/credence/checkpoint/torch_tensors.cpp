#include "credence/checkpoint/torch_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence::checkpoints {
namespace {

using Kind = PickleValue::Kind;

constexpr std::size_t kMostDimensions = 32;
constexpr std::uint64_t kMostElements = std::uint64_t{1} << 56;  // so that bytes and sums of two fit

struct StorageType {
  std::string_view name;
  ElementType type;
  std::uint64_t bytes;
};
constexpr StorageType kTypes[] = {
    {"DoubleStorage", ElementType::f64, 8},         {"FloatStorage", ElementType::f32, 4},
    {"HalfStorage", ElementType::f16, 2},           {"BFloat16Storage", ElementType::bf16, 2},
    {"LongStorage", ElementType::i64, 8},           {"IntStorage", ElementType::other, 4},
    {"ShortStorage", ElementType::other, 2},        {"CharStorage", ElementType::other, 1},
    {"ByteStorage", ElementType::other, 1},         {"BoolStorage", ElementType::other, 1},
    {"ComplexFloatStorage", ElementType::other, 8}, {"ComplexDoubleStorage", ElementType::other, 16}};

/// Reads one tensor; every refusal names it.
class TensorReader {
 public:
  TensorReader(const std::filesystem::path& file, const std::string& name) : file_(file), name_(name) {}

  /// None: the value is no tensor.
  std::optional<TorchTensor> read(const PickleValue& value) const {
    const PickleValue* call = &value;
    if (is_call_of(*call, "torch._utils._rebuild_parameter")) {
      const auto& arguments = call->items[1]->items;
      if (arguments.empty()) refuse("is a parameter of nothing");
      call = arguments[0];
    }
    if (!is_call_of(*call, "torch._utils._rebuild_tensor_v2") && !is_call_of(*call, "torch._utils._rebuild_tensor"))
      return std::nullopt;
    const auto& arguments = call->items[1]->items;
    if (arguments.size() < 4) refuse("has no storage, offset, size and stride");
    TorchTensor tensor;
    tensor.storage = read_storage(*arguments[0]);
    if (arguments[1]->kind != Kind::integer || arguments[1]->integer < 0) refuse("begins nowhere");
    tensor.offset = static_cast<std::uint64_t>(arguments[1]->integer);
    tensor.shape = read_sizes(*arguments[2]);
    tensor.stride = read_sizes(*arguments[3]);
    check_extent(tensor);
    return tensor;
  }

 private:
  static bool is_call_of(const PickleValue& value, std::string_view name) {
    return value.kind == Kind::call && value.items[0]->text == name;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw DataError(fmt::format("{}: the tensor '{}' {}", file_.string(), shown(name_), why));
  }

  TorchStorage read_storage(const PickleValue& value) const {
    if (value.kind != Kind::persistent || value.items[0]->kind != Kind::sequence) refuse("has no storage");
    const auto& id = value.items[0]->items;
    // ("storage", type, key, location, elements[, view])
    if (id.size() < 5 || id[0]->text != "storage" || id[1]->kind != Kind::global || id[2]->kind != Kind::text ||
        id[4]->kind != Kind::integer)
      refuse("has a storage that is not described");
    if (id.size() > 5 && id[5]->kind != Kind::none) refuse("has a storage that is part of another; save it again");
    const std::string_view type = std::string_view(id[1]->text).substr(id[1]->text.rfind('.') + 1);
    const auto* known = std::ranges::find(kTypes, type, &StorageType::name);
    if (known == std::end(kTypes)) refuse(fmt::format("has a storage of the unknown type {}", shown(type)));
    const std::int64_t elements = id[4]->integer;
    if (elements < 0 || static_cast<std::uint64_t>(elements) > kMostElements) refuse("has a storage of no size");
    return {id[2]->text, known->type, known->bytes, static_cast<std::uint64_t>(elements)};
  }

  std::vector<std::int64_t> read_sizes(const PickleValue& value) const {
    if (value.kind != Kind::sequence || value.items.size() > kMostDimensions)
      refuse(fmt::format("has no list of at most {} sizes", kMostDimensions));
    std::vector<std::int64_t> sizes;
    for (const PickleValue* const item : value.items) {
      if (item->kind != Kind::integer || item->integer < 0) refuse("has a size or a stride that is none");
      sizes.push_back(item->integer);
    }
    return sizes;
  }

  void check_extent(TorchTensor& tensor) const {
    if (tensor.shape.size() != tensor.stride.size()) refuse("has not as many strides as sizes");
    if (std::ranges::find(tensor.shape, 0) != tensor.shape.end()) {
      tensor.count = 0;
      return;
    }
    std::uint64_t last = tensor.offset;  // the largest index
    std::uint64_t count = 1;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      const auto size = static_cast<std::uint64_t>(tensor.shape[i]);
      std::uint64_t span = 0;
      if (__builtin_mul_overflow(size - 1, static_cast<std::uint64_t>(tensor.stride[i]), &span) ||
          __builtin_add_overflow(last, span, &last) || __builtin_mul_overflow(count, size, &count))
        refuse("is larger than its storage");
    }
    if (last >= tensor.storage.elements || count > tensor.storage.elements) refuse("is larger than its storage");
    tensor.count = static_cast<std::int64_t>(count);
  }

  const std::filesystem::path& file_;
  const std::string& name_;
};

/// Whether a value is a dictionary, or a call that makes one.
bool is_dictionary(const PickleValue& value) {
  return value.kind == Kind::dictionary ||
         (value.kind == Kind::call && value.items[0]->text == "collections.OrderedDict");
}

const PickleValue* entry_of(const PickleValue& dictionary, std::string_view key) {
  for (const auto& [name, value] : dictionary.pairs) {
    if (name->kind == Kind::text && name->text == key) return value;
  }
  return nullptr;
}

/// The dict of tensors itself, or the one that a training script put into another.
const PickleValue& state_dict_in(const std::filesystem::path& file, const PickleValue& root) {
  if (!is_dictionary(root)) {
    throw DataError(fmt::format("{}: holds no dictionary of tensors; save the network's state_dict(), not the network",
                                file.string()));
  }
  for (const std::string_view key : {"state_dict", "model_state_dict", "model"}) {
    if (const PickleValue* inner = entry_of(root, key); inner != nullptr && is_dictionary(*inner)) return *inner;
  }
  return root;
}

void leave_out_prefix(std::map<std::string, TorchTensor>& tensors, const std::string& prefix) {
  const auto begins = [&](const auto& item) { return item.first.starts_with(prefix); };
  if (!std::ranges::all_of(tensors, begins)) return;
  std::map<std::string, TorchTensor> renamed;
  for (auto& [name, tensor] : tensors) renamed.emplace(name.substr(prefix.size()), std::move(tensor));
  tensors = std::move(renamed);
}

}  // namespace

bool TorchTensor::is_contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && stride[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::vector<double> TorchTensor::read(const std::vector<std::byte>& storage_bytes) const {
  std::vector<double> values(static_cast<std::size_t>(count));
  if (count == 0) return values;
  if (is_contiguous()) {
    to_doubles(storage.type, std::span(storage_bytes).subspan(offset * storage.element_bytes), values);
    return values;
  }
  std::vector<double> all(static_cast<std::size_t>(storage.elements));
  to_doubles(storage.type, storage_bytes, all);
  std::vector<std::int64_t> index(shape.size(), 0);
  std::uint64_t at = offset;
  for (double& value : values) {
    value = all[at];
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      at += static_cast<std::uint64_t>(stride[axis]);
      if (++index[axis] < shape[axis]) break;
      at -= static_cast<std::uint64_t>(stride[axis]) * static_cast<std::uint64_t>(shape[axis]);
      index[axis] = 0;
    }
  }
  return values;
}

std::map<std::string, TorchTensor> find_tensors(const std::filesystem::path& file, const PickleValue& root) {
  std::map<std::string, TorchTensor> tensors;
  for (const auto& [key, value] : state_dict_in(file, root).pairs) {
    if (key->kind != Kind::text) continue;
    const std::optional<TorchTensor> tensor = TensorReader(file, key->text).read(*value);
    if (tensor && !tensors.emplace(key->text, *tensor).second)
      throw DataError(fmt::format("{}: the tensor '{}' is there twice", file.string(), shown(key->text)));
  }
  if (tensors.empty()) {
    throw DataError(fmt::format("{}: its dictionary holds no tensors; save the network's state_dict()", file.string()));
  }
  leave_out_prefix(tensors, "module.");
  return tensors;
}

}  // namespace credence::checkpoints
