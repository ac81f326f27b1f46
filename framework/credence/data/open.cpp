#include "credence/data/open.h"

#include <algorithm>
#include <charconv>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/data/cifar_store.h"
#include "credence/data/csv.h"
#include "credence/data/folder_store.h"
#include "credence/data/idx.h"
#include "credence/data/image_source.h"
#include "credence/data/moons.h"
#include "credence/data/pack_store.h"

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
  std::unique_ptr<ImageStore> (*store)(const std::string& argument, Split split);  // null: kept otherwise
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

constexpr std::int64_t kDefaultImageSize = 224;

}  // namespace

std::unique_ptr<DataSource> open_images(std::unique_ptr<ImageStore> store, const DataOptions& options) {
  ImageSource::Options image;
  image.output = store->common_size();
  if (image.output == ImageSize{}) image.output = {kDefaultImageSize, kDefaultImageSize};
  std::int64_t side = std::max(image.output.height, image.output.width);
  const std::vector<std::string> sizes = credence::split(options.image_size, '/');
  require(sizes.size() <= 2, "--image-size is SIZE or SIZE/SHORT, not {}", options.image_size);
  if (!sizes.empty()) {
    side = parse_integer(sizes[0], "--image-size");
    image.output = {side, side};
  }
  if (options.trained_shape.size() == 3) {
    image.output = {options.trained_shape[1], options.trained_shape[2]};
    side = std::max(image.output.height, image.output.width);
  }
  image.short_side =
      sizes.size() == 2 ? parse_integer(sizes[1], "the short side in --image-size SIZE/SHORT") : (side * 8 + 3) / 7;
  image.normalization = options.normalization.value_or(store->normalization());
  image.threads = options.threads;
  return std::make_unique<ImageSource>(std::move(store), image);
}

namespace {

IdxFiles mnist_files(const std::string& argument, Split split) {
  require(!argument.empty(), "mnist needs the folder of its idx files: mnist:DIR");
  IdxFiles files =
      find_idx_files(argument, split, "mnist:DIR needs the folder with MNIST's published idx files, names unchanged");
  files.class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  files.normalization = {{0.1307}, {0.3081}};
  return files;
}

IdxFiles fashion_mnist_files(const std::string& argument, Split split) {
  IdxFiles files = find_idx_files(argument.empty() ? kFashionMnistPackage : argument, split,
                                  "install the package dataset-fashion-mnist (apt-get install dataset-fashion-mnist) "
                                  "or name the folder of the idx files, fashion-mnist:DIR");
  files.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                       "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  files.normalization = {{0.2860}, {0.3530}};
  return files;
}

/// For a network of coloured images, or of another size, they are coloured and resized, whole.
std::unique_ptr<DataSource> open_idx(IdxFiles files, const DataOptions& options) {
  const std::vector<std::int64_t>& trained = options.trained_shape;
  if (trained.size() == 3) {
    auto store = std::make_unique<IdxStore>(files, static_cast<int>(trained[0]));
    const ImageSize own = store->common_size();
    if (trained[0] == 3 || own.height != trained[1] || own.width != trained[2]) {
      DataOptions whole = options;
      whole.image_size = fmt::format("{0}/{0}", std::max(trained[1], trained[2]));
      return open_images(std::move(store), whole);
    }
  }
  if (options.normalization) files.normalization = *options.normalization;
  return std::make_unique<IdxSource>(files);
}

std::unique_ptr<DataSource> open_mnist(const Request& request) {
  return open_idx(mnist_files(request.argument, request.split), request.options);
}

std::unique_ptr<DataSource> open_fashion_mnist(const Request& request) {
  return open_idx(fashion_mnist_files(request.argument, request.split), request.options);
}

std::unique_ptr<ImageStore> store_mnist(const std::string& argument, Split split) {
  return std::make_unique<IdxStore>(mnist_files(argument, split));
}

std::unique_ptr<ImageStore> store_fashion_mnist(const std::string& argument, Split split) {
  return std::make_unique<IdxStore>(fashion_mnist_files(argument, split));
}

std::unique_ptr<ImageStore> store_folder(const std::string& argument, Split split) {
  require(!argument.empty(), "images needs a folder of class folders: images:DIR");
  return std::make_unique<FolderStore>(argument, split);
}

std::unique_ptr<ImageStore> store_cifar10(const std::string& argument, Split split) {
  require(!argument.empty(), "cifar10 needs the folder of its binary version: cifar10:DIR");
  return std::make_unique<CifarStore>(argument, Cifar::ten, split);
}

std::unique_ptr<ImageStore> store_cifar100(const std::string& argument, Split split) {
  require(!argument.empty(), "cifar100 needs the folder of its binary version: cifar100:DIR");
  return std::make_unique<CifarStore>(argument, Cifar::hundred, split);
}

std::unique_ptr<ImageStore> store_pack(const std::string& argument, Split split) {
  require(!argument.empty(), "pack needs a file that credence pack made: pack:FILE");
  return std::make_unique<PackStore>(argument, split);
}

std::unique_ptr<DataSource> open_folder(const Request& request) {
  return open_images(store_folder(request.argument, request.split), request.options);
}

std::unique_ptr<DataSource> open_cifar10(const Request& request) {
  return open_images(store_cifar10(request.argument, request.split), request.options);
}

std::unique_ptr<DataSource> open_pack(const Request& request) {
  return open_images(store_pack(request.argument, request.split), request.options);
}

std::unique_ptr<DataSource> open_cifar100(const Request& request) {
  return open_images(store_cifar100(request.argument, request.split), request.options);
}

constexpr Entry kEntries[] = {{"fashion-mnist", open_fashion_mnist, store_fashion_mnist},
                              {"mnist", open_mnist, store_mnist},
                              {"moons", open_moons, nullptr},
                              {"csv", open_csv, nullptr},
                              {"images", open_folder, store_folder},
                              {"cifar10", open_cifar10, store_cifar10},
                              {"cifar100", open_cifar100, store_cifar100},
                              {"pack", open_pack, store_pack}};

const Entry& find_entry(const std::string& name) {
  for (const Entry& entry : kEntries)
    if (name == entry.name) return entry;
  refuse_unknown("data", name, data_names());
}

}  // namespace

Split parse_split(const std::string& name) {
  if (name == name_of(Split::train)) return Split::train;
  if (name == name_of(Split::test)) return Split::test;
  throw UserError(fmt::format("unknown split '{}': it is train or test", name));
}

std::unique_ptr<DataSource> open_data(const std::string& spec, Split split, const DataOptions& options) {
  const auto [name, argument] = parse_spec(spec);
  auto source = find_entry(name).open({argument, split, options});
  require(!options.normalization || *options.normalization == source->spec().normalization,
          "{} holds no images: they cannot be normalised like another dataset's", spec);
  require(options.image_size.empty() || !options.trained_shape.empty() || source->as_images() != nullptr,
          "--image-size is for images that are decoded (images, cifar10, cifar100, pack), not for {}", spec);
  return source;
}

std::unique_ptr<ImageStore> open_store(const std::string& spec, Split split) {
  const auto [name, argument] = parse_spec(spec);
  const Entry& entry = find_entry(name);
  require(entry.store != nullptr,
          "{} cannot be packed: that is for images (images, cifar10, cifar100, mnist, fashion-mnist, pack)", spec);
  return entry.store(argument, split);
}

std::vector<std::string> data_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

}  // namespace credence
