#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/data/open.h"

namespace credence {

/// Inputs without labels, for a network that was trained on examples like `trained`: a table (read_csv_inputs) or an
/// idx file of images, plain or gzip, told apart by content. Images are normalised as those of training were.
/// DataError where the file is neither, is damaged, or holds other inputs than the network takes.
std::unique_ptr<DataSource> open_inputs(const std::filesystem::path& file, const ExampleSpec& trained);

/// The JPEG and PNG files that an input stands for: itself, told by content, or those of a folder without folders in
/// it, sorted by name, hidden ones left out. None where it is another file. DataError names the file of a folder that
/// is no image, and a folder that holds none or holds folders.
std::vector<std::filesystem::path> image_files(const std::filesystem::path& input);

/// These images, an example each, as `reading` sizes and normalises them; labels mean nothing. DataError where the
/// network takes no images; reading an image that is damaged names it.
std::unique_ptr<DataSource> open_image_files(std::vector<std::filesystem::path> files, const ExampleSpec& trained,
                                             const DataOptions& reading);

}  // namespace credence
