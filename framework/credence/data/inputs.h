#pragma once

#include <filesystem>
#include <memory>

#include "credence/data/data_source.h"

namespace credence {

/// Inputs without labels, for a network that was trained on examples like `trained`: a table (read_csv_inputs) or an
/// idx file of images, plain or gzip, told apart by content. Images are normalised as those of training were.
/// DataError where the file is neither, is damaged, or holds other inputs than the network takes.
std::unique_ptr<DataSource> open_inputs(const std::filesystem::path& file, const ExampleSpec& trained);

}  // namespace credence
