#include "credence/data/open.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "credence/base/errors.h"
#include "credence/data/csv.h"
#include "credence/data/idx.h"
#include "credence/data/moons.h"

namespace credence {
namespace {

constexpr const char* kFashionMnistPackage = "/usr/share/datasets/fashion-mnist";

struct Request {
  std::string argument;  // what follows the colon
  Split split;
  const DataOptions& options;
};

struct Entry {
  const char* name;
  const char* usage;
  std::unique_ptr<DataSource> (*open)(const Request& request);
};

std::unique_ptr<DataSource> open_moons(const Request& request) {
  Moons moons;
  const std::string& seed = request.argument;
  if (!seed.empty()) {
    const auto parsed = std::from_chars(seed.data(), seed.data() + seed.size(), moons.seed);
    require(parsed.ec == std::errc() && parsed.ptr == seed.data() + seed.size(),
            "moons:{} is not understood: what follows the colon is a seed, a whole number below 2^56", seed);
  }
  return make_moons(moons, request.split);
}

std::unique_ptr<DataSource> open_csv(const Request& request) {
  require(!request.argument.empty(), "csv needs a file: csv:FILE");
  return read_csv(request.argument, request.split);
}

std::unique_ptr<DataSource> open_idx(const IdxFiles& found, const IdxFiles& kind, const Request& request) {
  IdxFiles files = kind;
  files.images = found.images;
  files.labels = found.labels;
  if (request.options.normalization) files.normalization = *request.options.normalization;
  return std::make_unique<IdxSource>(files);
}

std::unique_ptr<DataSource> open_mnist(const Request& request) {
  require(!request.argument.empty(), "mnist needs the folder of its idx files: mnist:DIR");
  IdxFiles kind;
  kind.class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  kind.normalization = {{0.1307}, {0.3081}};
  return open_idx(find_idx_files(request.argument, request.split,
                                 "mnist:DIR needs the folder with MNIST's published idx files, names unchanged"),
                  kind, request);
}

std::unique_ptr<DataSource> open_fashion_mnist(const Request& request) {
  IdxFiles kind;
  kind.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                      "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  kind.normalization = {{0.2860}, {0.3530}};
  return open_idx(find_idx_files(request.argument.empty() ? kFashionMnistPackage : request.argument, request.split,
                                 "install the package dataset-fashion-mnist (apt-get install dataset-fashion-mnist) or "
                                 "name the folder of the idx files, fashion-mnist:DIR"),
                  kind, request);
}

constexpr Entry kEntries[] = {{"fashion-mnist", "fashion-mnist[:DIR]", open_fashion_mnist},
                              {"mnist", "mnist:DIR", open_mnist},
                              {"moons", "moons[:SEED]", open_moons},
                              {"csv", "csv:FILE", open_csv}};

/// Letters to change, insert or drop to get from one name to the other (Levenshtein).
std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < to.size(); ++j) {
      const std::size_t substituted = diagonal + (from[i] == to[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

[[noreturn]] void throw_unknown(const std::string& name) {
  std::vector<std::string> usages;
  for (const Entry& entry : kEntries) usages.emplace_back(entry.usage);
  const Entry& nearest =
      *std::ranges::min_element(kEntries, {}, [&](const Entry& entry) { return edit_distance(name, entry.name); });
  throw UserError(
      fmt::format("unknown data '{}'; did you mean {}? Known are {}", name, nearest.usage, fmt::join(usages, ", ")));
}

}  // namespace

Split parse_split(const std::string& name) {
  if (name == name_of(Split::train)) return Split::train;
  if (name == name_of(Split::test)) return Split::test;
  throw UserError(fmt::format("unknown split '{}': it is train or test", name));
}

std::unique_ptr<DataSource> open_data(const std::string& spec, Split split, const DataOptions& options) {
  const std::size_t colon = spec.find(':');
  const std::string name = spec.substr(0, colon);
  const auto* const entry =
      std::ranges::find(kEntries, name, [](const Entry& known) { return std::string(known.name); });
  if (entry == std::end(kEntries)) throw_unknown(name);
  auto source = entry->open({colon == std::string::npos ? std::string() : spec.substr(colon + 1), split, options});
  require(!options.normalization || *options.normalization == source->spec().normalization,
          "{} holds no images: they cannot be normalised like another dataset's", spec);
  return source;
}

std::vector<std::string> data_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

}  // namespace credence
