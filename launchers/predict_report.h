#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/prediction/predict.h"

namespace credence {

/// What to predict, under the name that a user knows it by.
struct NamedInput {
  std::string name;
  std::unique_ptr<DataSource> source;
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::vector<std::string> files = {};  // of images in a file each, one an example

  std::string input_of(std::int64_t i) const { return files.empty() ? name : files[static_cast<std::size_t>(i)]; }
  std::int64_t example_of(std::int64_t i) const { return files.empty() ? first + i : 0; }
  /// How a table under `name` calls the example.
  std::string label_of(std::int64_t i) const { return files.empty() ? fmt::format("{}", first + i) : input_of(i); }
  int label_width() const {
    std::size_t width = 8;
    for (const std::string& file : files) width = std::max(width, file.size());
    return static_cast<int>(width);
  }
  const char* label_heading() const { return files.empty() ? "example" : "file"; }
};

/// Everything that is known of the predictions, for writing.
struct PredictionReport {
  const std::vector<NamedInput>& inputs;
  const std::vector<InputPredictions>& predictions;
  const ExampleSpec& trained;
};

/// One row an example, with every number that is known of it.
std::string to_csv(const PredictionReport& report);
/// An object an example, under the names of the table.
nlohmann::json to_json(const PredictionReport& report);
/// For people, to stdout.
void print_table(const PredictionReport& report);

}  // namespace credence
