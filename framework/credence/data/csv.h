#pragma once

#include <filesystem>
#include <memory>

#include "credence/data/data_source.h"
#include "credence/data/split.h"

namespace credence {

/// A table of numbers: a header line, then one example a line, fields separated by commas, a decimal point whatever the
/// locale, plain or gzip. Names are compared without case.
///
/// - `split` (optional) says "train" or "test"; without it the whole file serves either split.
/// - The target is the column `label`, `class` or `target`, or all columns `target_...`; where there is none of these,
///   `y` or all columns `y_...`; else the last column. Two of a kind are an error: one would leak into the features.
/// - Every other column is a feature, in the order of the file.
///
/// A single target whose values are all integers from 0 to 65,535 is a class label, classes = largest + 1 (at least 2)
/// over both splits; anything else is real-valued. Columns `target_...` and `y_...` are always real-valued, one or
/// many: that is how to name a count that is to be regressed on.
///
/// DataError names file and line: a field that is empty, not a number or not finite, a line with too few or too many
/// fields, an unknown split; and a file without header, features or rows of the split.
std::unique_ptr<DataSource> read_csv(const std::filesystem::path& path, Split split);

/// The inputs alone, every row, for a network trained on `trained`: columns are found by name and any others ignored.
/// Where no names are known, by number: all columns but `split` and those named as a target. DataError as above, and
/// where a feature is missing.
std::unique_ptr<DataSource> read_csv_inputs(const std::filesystem::path& path, const ExampleSpec& trained);

}  // namespace credence
