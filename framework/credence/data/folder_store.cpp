#include "credence/data/folder_store.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostFileBytes = std::uint64_t{1} << 31;

/// DataError where the name leads to nothing, StorageError where the machine would not say what is there.
[[noreturn]] void fail_listing(const char* what, const fs::path& path, const std::error_code& error) {
  throw_error(kind_of_input_error(error.value()),
              fmt::format("cannot {} {}: {}", what, path.string(), error.message()));
}

bool is_hidden(const fs::path& path) {
  return path.filename().string().starts_with('.');
}

/// Names of the folders in a folder, sorted by their bytes. What may be one must not be passed over: labels count them.
std::vector<std::string> folders_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) fail_listing("open the folder", directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (is_hidden(entries->path())) continue;
    std::error_code unknown;
    const bool folder = entries->is_directory(unknown);
    if (unknown) fail_listing("tell what is at", entries->path(), unknown);
    if (folder) names.push_back(entries->path().filename().string());
  }
  if (error) fail_listing("list the folder", directory, error);
  std::ranges::sort(names);
  return names;
}

std::optional<fs::path> first_folder(const fs::path& directory, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    std::error_code error;
    const fs::file_status status = fs::status(directory / name, error);
    if (error && status.type() != fs::file_type::not_found) fail_listing("tell what is at", directory / name, error);
    if (fs::is_directory(status)) return directory / name;
  }
  return std::nullopt;
}

/// The folder of class folders that serves the split, and that of the training split where it is another one.
struct Place {
  fs::path root;
  std::optional<fs::path> training;
  bool has_other = false;
  bool serves_both = false;
};

Place find_place(const fs::path& directory, Split split) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw DataError(fmt::format("images:DIR needs a folder, and {} is none", directory.string()));
  const auto train = first_folder(directory, {"train"});
  const auto test = first_folder(directory, {"test", "val"});
  if (!train && !test) return {directory, std::nullopt, false, true};
  if (split == Split::test) {
    if (!test) throw DataError(fmt::format("{} has a folder train, but neither test nor val", directory.string()));
    return {*test, train, train.has_value(), false};
  }
  if (!train) throw DataError(fmt::format("{} has no folder train", directory.string()));
  return {*train, std::nullopt, test.has_value(), false};
}

/// DataError unless both splits have the same classes.
void check_classes(const Place& place, const std::vector<std::string>& classes) {
  if (!place.training) return;
  const std::vector<std::string> trained = folders_in(*place.training);
  std::vector<std::string> missing;
  std::vector<std::string> unknown;
  std::ranges::set_difference(trained, classes, std::back_inserter(missing));
  std::ranges::set_difference(classes, trained, std::back_inserter(unknown));
  if (!missing.empty())
    throw DataError(fmt::format("{} has no folder for the class '{}' of {} ({} missing)", place.root.string(),
                                missing.front(), place.training->string(), missing.size()));
  if (!unknown.empty())
    throw DataError(fmt::format("{} has a folder for the class '{}', which {} does not have ({} such)",
                                place.root.string(), unknown.front(), place.training->string(), unknown.size()));
}

}  // namespace

void read_whole_file(const fs::path& file, std::vector<std::uint8_t>& bytes) {
  const Input input = open_input(file);
  if (input.length > kMostFileBytes)
    throw DataError(fmt::format("{} bytes are more than an image can have", input.length));
  bytes.resize(input.length);
  read_input_at(input.descriptor.get(), file, std::as_writable_bytes(std::span(bytes)), 0);
}

FolderStore::FolderStore(const fs::path& directory, Split split) {
  const Place place = find_place(directory, split);
  root_ = place.root;
  has_other_split_ = place.has_other;
  serves_both_ = place.serves_both;
  normalization_ = kImageNetNormalization;
  class_names_ = folders_in(root_);
  classes_ = static_cast<std::int64_t>(class_names_.size());
  if (classes_ == 0)
    throw DataError(
        fmt::format("{} holds no class folders: images:DIR needs one folder of images a class", root_.string()));
  check_classes(place, class_names_);
  for (std::int64_t label = 0; label < classes_; ++label) add_class(label);
}

void FolderStore::add_class(std::int64_t label) {
  const fs::path folder = root_ / class_names_[static_cast<std::size_t>(label)];
  std::vector<std::pair<std::string, std::int64_t>> files;
  std::error_code error;
  fs::recursive_directory_iterator entries(folder, fs::directory_options::follow_directory_symlink, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    if (is_hidden(entries->path())) {
      if (entries->is_directory(error)) entries.disable_recursion_pending();
      continue;
    }
    std::error_code unknown;
    const bool regular = entries->is_regular_file(unknown);
    const std::uintmax_t length = regular ? entries->file_size(unknown) : 0;
    if (unknown && kind_of_input_error(unknown.value()) == ExitCode::storage)
      fail_listing("tell what is at", entries->path(), unknown);
    if (!regular && !unknown) continue;  // a link to nothing is an image that cannot be read
    files.emplace_back(entries->path().lexically_relative(root_).string(), static_cast<std::int64_t>(length));
  }
  if (error) fail_listing("list the folder", folder, error);
  if (files.empty()) throw DataError(fmt::format("the class folder {} holds no images", folder.string()));
  std::ranges::sort(files);
  for (const auto& [path, length] : files) {
    text_ += path;
    ends_.push_back(text_.size());
    lengths_.push_back(length);
    labels_.push_back(label);
  }
}

std::string FolderStore::path(std::int64_t record) const {
  const auto i = static_cast<std::size_t>(record);
  const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
  return text_.substr(begin, ends_[i] - begin);
}

std::string FolderStore::name(std::int64_t record) const {
  return (root_ / path(record)).string();
}

StoredImage FolderStore::read(std::int64_t record, std::vector<std::uint8_t>& buffer) const {
  read_whole_file(root_ / path(record), buffer);
  return {sniff_encoding(buffer), {}, buffer};
}

void FolderStore::add_to(ContentDigest& digest) const {
  digest.add(std::span<const char>(text_));
  digest.add(std::span<const std::int64_t>(lengths_));
}

Digest FolderStore::fingerprint(std::int64_t record) const {
  return digest_of(std::as_bytes(std::span(lengths_).subspan(static_cast<std::size_t>(record), 1)));
}

}  // namespace credence
