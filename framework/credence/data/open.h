#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/data/image_store.h"
#include "credence/data/split.h"

namespace credence {

struct DataOptions {
  /// Of images, instead of the dataset's own: out-of-distribution data must be read as the network's own data was
  /// (`own.spec().normalization`). Empty: pixel / 255. Datasets that are no images take an empty one only.
  std::optional<Normalization> normalization = {};
  /// Of images that are decoded: "SIZE" or "SIZE/SHORT", pixels of a side and of the short side before the middle is
  /// taken (default: 8/7 of SIZE). Empty: the size that all images have where that is known, else 224.
  std::string image_size = {};
  /// [channels, height, width] that a network was trained on: decoded images are brought to that size.
  std::vector<std::int64_t> trained_shape = {};
  int threads = 1;  // that decode images in read()
};

/// Opens a dataset by its spec, `name[:arguments]`. Every rank opens the same one for itself; nothing is collective.
///
///     moons[:SEED]            two half moons, 500 points a split
///     csv:FILE                a table of numbers (csv.h)
///     mnist:DIR               MNIST's idx files, plain or gzip
///     fashion-mnist[:DIR]     the same of Fashion-MNIST; without DIR those of the distribution's package
///     images:DIR              class folders of JPEG and PNG files (folder_store.h)
///     cifar10:DIR, cifar100:DIR   CIFAR's binary version
///     pack:FILE               what `credence pack` made of any of the images above
///
/// UserError for a spec that is not understood, DataError for files that are missing or damaged.
std::unique_ptr<DataSource> open_data(const std::string& spec, Split split, const DataOptions& options = {});

/// Images of any store, sized and normalised as the options say. UserError for sizes that make no sense.
std::unique_ptr<DataSource> open_images(std::unique_ptr<ImageStore> store, const DataOptions& options);

/// The images of a dataset as they are kept. UserError where it holds none, or holds no images.
std::unique_ptr<ImageStore> open_store(const std::string& spec, Split split);

/// The names that open_data() knows.
std::vector<std::string> data_names();

}  // namespace credence
