#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/data/split.h"

namespace credence {

struct DataOptions {
  /// Of images, instead of the dataset's own: out-of-distribution data must be read as the network's own data was
  /// (`own.spec().normalization`). Empty: pixel / 255. Datasets that are no images take an empty one only.
  std::optional<Normalization> normalization;
};

/// Opens a dataset by its spec, `name[:arguments]`. Every rank opens the same one for itself; nothing is collective.
///
///     moons[:SEED]            two half moons, 500 points a split
///     csv:FILE                a table of numbers (csv.h)
///     mnist:DIR               MNIST's idx files, plain or gzip
///     fashion-mnist[:DIR]     the same of Fashion-MNIST; without DIR those of the distribution's package
///
/// UserError for a spec that is not understood, DataError for files that are missing or damaged.
std::unique_ptr<DataSource> open_data(const std::string& spec, Split split, const DataOptions& options = {});

/// The names that open_data() knows.
std::vector<std::string> data_names();

}  // namespace credence
