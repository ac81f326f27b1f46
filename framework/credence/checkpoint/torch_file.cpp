#include "credence/checkpoint/torch_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "credence/base/file_io.h"
#include "credence/base/text.h"
#include "credence/base/zip_archive.h"
#include "credence/checkpoint/pickle.h"
#include "credence/checkpoint/torch_tensors.h"

namespace credence::checkpoints {
namespace {

// A tensor takes some two hundred bytes of a pickle.
constexpr std::uint64_t kMostPickleBytes = 8U << 20;

class TorchFile : public StateDict {
 public:
  std::vector<double> read_doubles(const std::string& name) const final {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) refuse(fmt::format("there is no tensor '{}'", shown(name)));
    const TorchTensor& tensor = found->second;
    if (tensor.storage.type == ElementType::other)
      refuse(fmt::format("the type of '{}' is not read: floating point and 64-bit integers are", shown(name)));
    return tensor.read(read_storage(tensor.storage));
  }

 protected:
  using StateDict::StateDict;
  void take_tensors(const PickleValue& root) {
    tensors_ = find_tensors(file_, root);
    for (const auto& [name, tensor] : tensors_) shapes_[name] = tensor.shape;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw DataError(fmt::format("{}: {}", file_.string(), why));
  }
  /// Exactly storage.bytes().
  virtual std::vector<std::byte> read_storage(const TorchStorage& storage) const = 0;

  std::map<std::string, TorchTensor> tensors_;
};

/// NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder.
class TorchArchive final : public TorchFile {
 public:
  explicit TorchArchive(const std::filesystem::path& file) : TorchFile(file), archive_(file) {
    constexpr std::string_view kPickleName = "/data.pkl";
    for (const auto& [name, entry] : archive_.entries()) {
      if (name.ends_with(kPickleName)) folder_ = name.substr(0, name.size() - kPickleName.size());
    }
    if (archive_.entries().contains(folder_ + "/constants.pkl"))
      refuse("is a TorchScript module; use it as --network torchscript:FILE, or save its state_dict()");
    const std::string order = folder_ + "/byteorder";
    if (archive_.entries().contains(order)) {
      const auto text = archive_.read(order, 16);
      if (std::string_view(reinterpret_cast<const char*>(text.data()), text.size()) != "little")
        refuse("was written on a machine of another byte order");
    }
    const std::vector<std::byte> bytes = archive_.read(folder_ + "/data.pkl", kMostPickleBytes);
    take_tensors(Pickle(file, bytes).root());
  }

 private:
  std::vector<std::byte> read_storage(const TorchStorage& storage) const override {
    std::vector<std::byte> bytes = archive_.read(folder_ + "/data/" + storage.key, storage.bytes());
    if (bytes.size() != storage.bytes())
      refuse(fmt::format("the storage {} has {} bytes and should have {}", shown(storage.key), bytes.size(),
                         storage.bytes()));
    return bytes;
  }

  ZipArchive archive_;
  std::string folder_;
};

/// Pickles of a magic number, the version, facts about the machine, the object and the keys of its storages; then each
/// storage: its number of elements, its elements.
class LegacyTorchFile final : public TorchFile {
 public:
  explicit LegacyTorchFile(const std::filesystem::path& file)
      : TorchFile(file), descriptor_(open_file(ExitCode::unusable_data, file, O_RDONLY | O_NONBLOCK)) {
    length_ = file_length(ExitCode::unusable_data, file_, descriptor_.get());
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(length_, kMostPickleBytes)));
    read_at(ExitCode::unusable_data, descriptor_.get(), file_, bytes, 0);
    std::size_t position = 0;
    const auto next = [&] {
      Pickle pickle(file_, std::span(bytes).subspan(position));
      position += pickle.length();
      return pickle;
    };
    for (int i = 0; i < 3; ++i) next();
    take_tensors(next().root());
    const Pickle keys = next();
    place_storages(keys.root(), position);
  }

 private:
  /// Storages that no tensor of the state dict is in have a size that is not known here: those before them are found.
  void place_storages(const PickleValue& keys, std::uint64_t position) {
    if (keys.kind != PickleValue::Kind::sequence) refuse("does not list its storages");
    std::map<std::string, const TorchStorage*> storages;
    for (const auto& [name, tensor] : tensors_) storages[tensor.storage.key] = &tensor.storage;
    for (const PickleValue* const key : keys.items) {
      const auto storage = storages.find(key->text);
      if (storage == storages.end()) return;
      std::uint64_t elements = 0;
      if (position > length_ || length_ - position < sizeof(elements)) refuse("ends before its storages do");
      read_at(ExitCode::unusable_data, descriptor_.get(), file_, std::as_writable_bytes(std::span(&elements, 1)),
              position);
      position += sizeof(elements);
      const TorchStorage& description = *storage->second;
      if (elements != description.elements || description.bytes() > length_ - position)
        refuse(fmt::format("the storage {} has {} elements and should have {}, or ends after the file",
                           shown(description.key), elements, description.elements));
      places_[description.key] = position;
      position += description.bytes();
    }
  }

  std::vector<std::byte> read_storage(const TorchStorage& storage) const override {
    const auto place = places_.find(storage.key);
    if (place == places_.end()) refuse(fmt::format("the storage {} was not found", shown(storage.key)));
    if (place->second > length_ || storage.bytes() > length_ - place->second)
      refuse(fmt::format("the storage {} ends after the file", shown(storage.key)));
    std::vector<std::byte> bytes(static_cast<std::size_t>(storage.bytes()));
    read_at(ExitCode::unusable_data, descriptor_.get(), file_, bytes, place->second);
    return bytes;
  }

  Descriptor descriptor_;
  std::uint64_t length_ = 0;
  std::map<std::string, std::uint64_t> places_;
};

}  // namespace

std::unique_ptr<StateDict> open_torch_archive(const std::filesystem::path& file) {
  return std::make_unique<TorchArchive>(file);
}

std::unique_ptr<StateDict> open_legacy_torch_file(const std::filesystem::path& file) {
  return std::make_unique<LegacyTorchFile>(file);
}

}  // namespace credence::checkpoints
