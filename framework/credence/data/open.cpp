#include "credence/data/open.h"

#include <charconv>

#include "credence/base/errors.h"
#include "credence/base/text.h"
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

constexpr Entry kEntries[] = {
    {"fashion-mnist", open_fashion_mnist}, {"mnist", open_mnist}, {"moons", open_moons}, {"csv", open_csv}};

}  // namespace

Split parse_split(const std::string& name) {
  if (name == name_of(Split::train)) return Split::train;
  if (name == name_of(Split::test)) return Split::test;
  throw UserError(fmt::format("unknown split '{}': it is train or test", name));
}

std::unique_ptr<DataSource> open_data(const std::string& spec, Split split, const DataOptions& options) {
  const auto [name, argument] = parse_spec(spec);
  for (const Entry& entry : kEntries) {
    if (name != entry.name) continue;
    auto source = entry.open({argument, split, options});
    require(!options.normalization || *options.normalization == source->spec().normalization,
            "{} holds no images: they cannot be normalised like another dataset's", spec);
    return source;
  }
  refuse_unknown("data", name, data_names());
}

std::vector<std::string> data_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

}  // namespace credence
