#include "credence/data/inputs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "credence/base/errors.h"
#include "credence/data/csv.h"
#include "credence/data/folder_store.h"
#include "credence/data/idx.h"
#include "credence/data/input_file.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

enum class Content : std::uint8_t { table, idx, image, unknown };

bool is_image(std::span<const std::uint8_t> begin) {
  try {
    sniff_encoding(begin);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

Content content_of(const fs::path& file) {
  std::array<std::uint8_t, 8> begin{};
  const std::size_t count = InputFile(file).read(begin);
  if (count >= 4 && begin[0] == 0 && begin[1] == 0) return Content::idx;
  if (is_image(std::span(begin).first(count))) return Content::image;
  // No text: a zero byte, or one that begins no character of UTF-8 (images in PNG and JPEG do so).
  const bool binary = std::find(begin.begin(), begin.begin() + count, 0) != begin.begin() + count ||
                      (begin[0] >= 0x80 && begin[0] < 0xc0) || begin[0] >= 0xf8;
  return binary ? Content::unknown : Content::table;
}

std::string takes_of(const ExampleSpec& trained) {
  return fmt::format("the network was trained on inputs [{}]", fmt::join(trained.input_shape, ", "));
}

/// Images of no class, each a file of its own.
class FileStore final : public ImageStore {
 public:
  FileStore(std::vector<fs::path> files, int channels) : files_(std::move(files)) {
    labels_.resize(files_.size());
    classes_ = 1;
    channels_ = channels;
  }

  std::string name(std::int64_t record) const override { return file(record).string(); }
  std::string path(std::int64_t record) const override { return file(record).string(); }
  StoredImage read(std::int64_t record, std::vector<std::uint8_t>& buffer) const override {
    read_whole_file(file(record), buffer);
    return {sniff_encoding(buffer), {}, buffer};
  }
  void add_to(ContentDigest& digest) const override {
    for (const fs::path& file : files_) digest.add(std::span<const char>(file.native()));
  }

 private:
  const fs::path& file(std::int64_t record) const { return files_[static_cast<std::size_t>(record)]; }

  std::vector<fs::path> files_;
};

}  // namespace

std::unique_ptr<DataSource> open_inputs(const fs::path& file, const ExampleSpec& trained) {
  const Content content = content_of(file);
  const std::string takes = takes_of(trained);
  if (content == Content::unknown || content == Content::image)
    throw DataError(
        fmt::format("{} is neither a table (csv) nor an idx file, nor an image as JPEG or PNG", file.string()));
  if (content == Content::table) {
    if (trained.input_shape.size() != 1) throw DataError(fmt::format("{} is a table, and {}", file.string(), takes));
    return read_csv_inputs(file, trained);
  }
  IdxFiles files;
  files.images = file;
  files.normalization = trained.normalization;
  auto source = std::make_unique<IdxSource>(files);
  const auto& shape = source->spec().input_shape;
  if (shape != trained.input_shape)
    throw DataError(fmt::format("{} holds images [{}], and {}", file.string(), fmt::join(shape, ", "), takes));
  return source;
}

std::vector<fs::path> image_files(const fs::path& input) {
  std::error_code error;
  if (!fs::is_directory(input, error)) {
    if (content_of(input) != Content::image) return {};
    return {input};
  }
  std::vector<fs::path> files;
  fs::directory_iterator entries(input, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (entries->path().filename().string().starts_with('.')) continue;
    std::error_code ignored;
    if (entries->is_directory(ignored))
      throw DataError(
          fmt::format("{} holds the folder {}: give a folder of images alone, or class folders by --data images:DIR",
                      input.string(), entries->path().filename().string()));
    files.push_back(entries->path());
  }
  if (error) throw DataError(fmt::format("cannot list the folder {}: {}", input.string(), error.message()));
  if (files.empty()) throw DataError(fmt::format("the folder {} holds no images", input.string()));
  std::ranges::sort(files);
  for (const fs::path& file : files)
    if (content_of(file) != Content::image)
      throw DataError(fmt::format("{} is no image as JPEG or PNG", file.string()));
  return files;
}

std::unique_ptr<DataSource> open_image_files(std::vector<fs::path> files, const ExampleSpec& trained,
                                             const DataOptions& reading) {
  if (trained.input_shape.size() != 3)
    throw DataError(fmt::format("{} is an image, and {}", files.at(0).string(), takes_of(trained)));
  auto store = std::make_unique<FileStore>(std::move(files), static_cast<int>(trained.input_shape[0]));
  return open_images(std::move(store), reading);
}

}  // namespace credence
