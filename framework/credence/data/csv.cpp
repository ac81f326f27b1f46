#include "credence/data/csv.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/data/csv_layout.h"
#include "credence/data/input_file.h"
#include "credence/data/memory_source.h"

namespace credence {
namespace {

constexpr double kLargestLabel = 65535;

/// The lines of a text, numbered from 1, without their ends (LF or CR LF); blank ones are passed over.
class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    if (rest_.starts_with(kByteOrderMark)) rest_.remove_prefix(kByteOrderMark.size());
  }
  bool next() {
    while (!rest_.empty()) {
      const std::size_t end = std::min(rest_.find('\n'), rest_.size());
      line_ = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++number_;
      if (line_.ends_with('\r')) line_.remove_suffix(1);
      if (line_.find_first_not_of(" \t") != std::string_view::npos) return true;
    }
    return false;
  }
  std::string_view line() const { return line_; }
  std::int64_t number() const { return number_; }

 private:
  std::string_view rest_;
  std::string_view line_;
  std::int64_t number_ = 0;
};

/// The rows of one split, and what the targets of all rows look like.
struct Table {
  std::vector<float> features;
  std::vector<float> targets;
  bool labels = true;  // every target is an integer from 0 to 65,535
  double largest = 0;

  void note_target(double value) {
    labels = labels && value >= 0 && value <= kLargestLabel && value == std::floor(value);
    largest = std::max(largest, value);
  }
};

bool is_wanted(std::string_view field, Split split, const CsvPlace& place) {
  if (field != "train" && field != "test")
    throw_csv_error(place, fmt::format("the split is '{}', but must be train or test", printable(field)));
  return field == name_of(split);
}

void require_fields(std::size_t fields, std::size_t columns, const CsvPlace& place) {
  if (fields != columns)
    throw_csv_error(place, fmt::format("there are {} fields, but the header names {} columns", fields, columns));
}

void read_row(const std::vector<std::string_view>& fields, const CsvLayout& layout, const CsvPlace& place,
              std::pair<Split, Table&> to) {
  auto& [split, table] = to;
  require_fields(fields.size(), layout.names.size(), place);
  const std::size_t features = table.features.size();
  const std::size_t targets = table.targets.size();
  bool wanted = true;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (layout.roles[i] == CsvRole::split) {
      wanted = is_wanted(fields[i], split, place);
      continue;
    }
    const double value = parse_csv_number(fields[i], layout.names[i], place);
    if (layout.roles[i] == CsvRole::target) table.note_target(value);
    (layout.roles[i] == CsvRole::target ? table.targets : table.features).push_back(static_cast<float>(value));
  }
  if (wanted) return;
  table.features.resize(features);
  table.targets.resize(targets);
}

}  // namespace

std::unique_ptr<DataSource> read_csv(const std::filesystem::path& path, Split split) {
  const std::string file = path.string();
  const std::string text = InputFile(path).read_all();
  Lines lines(text);
  if (!lines.next()) throw DataError(fmt::format("{} is empty", file));
  std::vector<std::string_view> fields;
  split_csv_line(lines.line(), {file, lines.number()}, fields);
  const CsvLayout layout = parse_csv_header(fields, {file, lines.number()});

  Table table;
  while (lines.next()) {
    const CsvPlace place{file, lines.number()};
    split_csv_line(lines.line(), place, fields);
    read_row(fields, layout, place, {split, table});
  }
  if (table.features.empty())
    throw DataError(layout.has_split ? fmt::format("{} holds no row whose split is {}", file, name_of(split))
                                     : fmt::format("{} holds a header, but no rows", file));
  if (split == Split::test && !layout.has_split) {
    log_warning("{} has no column 'split': all of its rows are evaluated, those of training too", file);
  }

  MemoryData data;
  data.spec.input_shape = {layout.features};
  for (std::size_t i = 0; i < layout.names.size(); ++i)
    if (layout.roles[i] == CsvRole::feature) data.spec.feature_names.push_back(layout.names[i]);
  data.inputs = std::move(table.features);
  if (table.labels && layout.targets == 1 && !layout.real_valued) {
    data.spec.classes = std::max<std::int64_t>(2, static_cast<std::int64_t>(table.largest) + 1);
    data.labels.assign(table.targets.begin(), table.targets.end());
  } else {
    data.spec.target_size = layout.targets;
    data.targets = std::move(table.targets);
  }
  return std::make_unique<MemorySource>(std::move(data));
}

std::unique_ptr<DataSource> read_csv_inputs(const std::filesystem::path& path, const ExampleSpec& trained) {
  const std::string file = path.string();
  const std::string text = InputFile(path).read_all();
  Lines lines(text);
  if (!lines.next()) throw DataError(fmt::format("{} is empty", file));
  std::vector<std::string_view> names, fields;
  split_csv_line(lines.line(), {file, lines.number()}, names);
  const std::vector<std::size_t> columns = find_features(names, trained, {file, lines.number()});

  MemoryData data;
  data.spec.input_shape = trained.input_shape;
  while (lines.next()) {
    const CsvPlace place{file, lines.number()};
    split_csv_line(lines.line(), place, fields);
    require_fields(fields.size(), names.size(), place);
    for (const std::size_t i : columns)
      data.inputs.push_back(static_cast<float>(parse_csv_number(fields[i], std::string(names[i]), place)));
  }
  if (data.inputs.empty()) throw DataError(fmt::format("{} holds a header, but no rows", file));
  return std::make_unique<MemorySource>(std::move(data));
}

}  // namespace credence
