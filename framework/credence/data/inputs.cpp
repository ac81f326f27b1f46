#include "credence/data/inputs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "credence/base/errors.h"
#include "credence/data/csv.h"
#include "credence/data/idx.h"
#include "credence/data/input_file.h"

namespace credence {
namespace {

enum class Content : std::uint8_t { table, idx, unknown };

Content content_of(const std::filesystem::path& file) {
  std::array<std::uint8_t, 4> begin{};
  const std::size_t count = InputFile(file).read(begin);
  if (count == begin.size() && begin[0] == 0 && begin[1] == 0) return Content::idx;
  // No text: a zero byte, or one that begins no character of UTF-8 (images in PNG and JPEG do so).
  const bool binary = std::find(begin.begin(), begin.begin() + count, 0) != begin.begin() + count ||
                      (begin[0] >= 0x80 && begin[0] < 0xc0) || begin[0] >= 0xf8;
  return binary ? Content::unknown : Content::table;
}

}  // namespace

std::unique_ptr<DataSource> open_inputs(const std::filesystem::path& file, const ExampleSpec& trained) {
  const Content content = content_of(file);
  const std::string takes = fmt::format("the network was trained on inputs [{}]", fmt::join(trained.input_shape, ", "));
  if (content == Content::unknown)
    throw DataError(fmt::format("{} is neither a table (csv) nor an idx file of images", file.string()));
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

}  // namespace credence
