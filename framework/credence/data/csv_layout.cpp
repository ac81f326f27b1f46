#include "credence/data/csv_layout.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <system_error>

#include "credence/base/errors.h"

namespace credence {
namespace {

constexpr std::string_view kBlanks = " \t";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

/// Position of the quote that ends a quoted field beginning at `text[0]`.
std::size_t closing_quote(std::string_view text) {
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] != '"') continue;
    if (i + 1 == text.size() || text[i + 1] != '"') return i;
    ++i;
  }
  return std::string_view::npos;
}

std::string lower_case(std::string text) {
  for (char& letter : text)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return text;
}

/// Columns with this very name, or where the name ends in '_', that begin so.
std::vector<std::size_t> columns_named(const std::vector<std::string>& names, std::string_view name) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (name.back() == '_' ? names[i].starts_with(name) : names[i] == name) found.push_back(i);
  return found;
}

struct Target {
  std::vector<std::size_t> columns;
  bool real_valued = false;
};

Target find_target(const std::vector<std::string>& names, const CsvPlace& place) {
  for (const std::vector<std::string_view>& candidates :
       {std::vector<std::string_view>{"label", "class", "target", "target_"}, {"y", "y_"}}) {
    Target target;
    for (const std::string_view name : candidates) {
      std::vector<std::size_t> found = columns_named(names, name);
      if (found.empty()) continue;
      if (!target.columns.empty())
        throw_csv_error(place, fmt::format("the columns '{}' and '{}' both look like the target; rename or remove one",
                                           printable(names[target.columns.front()]), printable(names[found.front()])));
      target = {std::move(found), name.back() == '_'};
    }
    if (!target.columns.empty()) return target;
  }
  const std::size_t last = names.size() - 1;
  return {{names[last] == "split" ? last - 1 : last}, false};
}

/// The columns' names, in lower case.
std::vector<std::string> column_names(const std::vector<std::string_view>& fields, const CsvPlace& place) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  bool numbers = true;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::string& name = names.emplace_back(lower_case(std::string(fields[i])));
    if (name.empty())
      throw_csv_error(place, fmt::format("column {} has no name (an index column? write the file without it)", i + 1));
    if (!seen.insert(name).second) throw_csv_error(place, fmt::format("two columns are named '{}'", printable(name)));
    double ignored = 0.0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), ignored);
    numbers = numbers && parsed.ptr == name.data() + name.size();
  }
  if (numbers) throw_csv_error(place, "the first line holds numbers; it must name the columns");
  return names;
}

/// Columns that are neither the split nor named as a target beyond doubt.
std::vector<std::size_t> columns_but_targets(const std::vector<std::string>& names) {
  std::vector<std::size_t> columns;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string& name = names[i];
    if (name != "split" && name != "label" && name != "class" && name != "target" && !name.starts_with("target_"))
      columns.push_back(i);
  }
  return columns;
}

}  // namespace

void throw_csv_error(const CsvPlace& place, const std::string& message) {
  throw DataError(fmt::format("{}, line {}: {}", place.file, place.line, message));
}

std::string printable(std::string_view field) {
  constexpr std::size_t kMostShown = 40;
  std::string text(field.substr(0, kMostShown));
  for (char& letter : text)
    if (static_cast<unsigned char>(letter) < ' ') letter = '?';
  return field.size() > kMostShown ? text + "..." : text;
}

void split_csv_line(std::string_view line, const CsvPlace& place, std::vector<std::string_view>& fields) {
  fields.clear();
  for (;;) {
    const std::size_t first = std::min(line.find_first_not_of(kBlanks), line.size());
    std::size_t comma = 0;
    if (first < line.size() && line[first] == '"') {
      const std::size_t length = closing_quote(line.substr(first));
      if (length == std::string_view::npos) throw_csv_error(place, "a quote is not closed");
      comma = std::min(line.find(',', first + length), line.size());
      if (!trimmed(line.substr(first + length + 1, comma - first - length - 1)).empty())
        throw_csv_error(place, "there is text between a closing quote and the next comma");
      fields.push_back(trimmed(line.substr(first + 1, length - 1)));
    } else {
      comma = std::min(line.find(','), line.size());
      fields.push_back(trimmed(line.substr(0, comma)));
    }
    if (comma == line.size()) return;
    line.remove_prefix(comma + 1);
  }
}

CsvLayout parse_csv_header(const std::vector<std::string_view>& fields, const CsvPlace& place) {
  CsvLayout layout;
  layout.names = column_names(fields, place);
  layout.has_split = std::ranges::find(layout.names, "split") != layout.names.end();
  if (layout.names.size() < (layout.has_split ? 3U : 2U))
    throw_csv_error(place, "there must be at least one feature and one target column, separated by commas");

  const Target target = find_target(layout.names, place);
  for (const std::string& name : layout.names)
    layout.roles.push_back(name == "split" ? CsvRole::split : CsvRole::feature);
  for (const std::size_t column : target.columns) layout.roles[column] = CsvRole::target;
  layout.targets = std::ranges::count(layout.roles, CsvRole::target);
  layout.features = std::ranges::count(layout.roles, CsvRole::feature);
  layout.real_valued = target.real_valued;
  if (layout.features == 0) throw_csv_error(place, "every column is a target; there must be at least one feature");
  return layout;
}

std::vector<std::size_t> find_features(const std::vector<std::string_view>& fields, const ExampleSpec& trained,
                                       const CsvPlace& place) {
  const std::vector<std::string> names = column_names(fields, place);
  std::vector<std::size_t> columns;
  for (const std::string& feature : trained.feature_names) {
    const auto found = std::ranges::find(names, feature);
    if (found == names.end())
      throw_csv_error(place, fmt::format("there is no column '{}', which the network was trained on", feature));
    columns.push_back(static_cast<std::size_t>(found - names.begin()));
  }
  if (!columns.empty()) return columns;
  const auto wanted = static_cast<std::size_t>(trained.input_elements());
  columns = columns_but_targets(names);
  if (columns.size() == wanted + 1) {
    // One more may be the target, under a name that is one only where there is no better.
    const CsvLayout layout = parse_csv_header(fields, place);
    std::erase_if(columns, [&](std::size_t i) { return layout.roles[i] == CsvRole::target; });
  }
  if (columns.size() != wanted)
    throw_csv_error(
        place, fmt::format("there are {} feature columns, and the network was trained on {}", columns.size(), wanted));
  return columns;
}

double parse_csv_number(std::string_view field, const std::string& column, const CsvPlace& place) {
  std::string_view digits = field;
  if (digits.size() > 1 && digits[0] == '+' && digits[1] != '-') digits.remove_prefix(1);
  double value = 0.0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) {
    if (std::isfinite(static_cast<float>(value))) return value;
    throw_csv_error(place, fmt::format("column '{}' holds {}, which is not a finite number{}", column, printable(field),
                                       std::isfinite(value) ? " of single precision" : ""));
  }
  if (field.empty()) throw_csv_error(place, fmt::format("column '{}' is empty", column));
  if (parsed.ec == std::errc::result_out_of_range)
    throw_csv_error(place, fmt::format("column '{}' holds {}, outside the range of numbers", column, printable(field)));
  throw_csv_error(place, fmt::format("column '{}' holds '{}', which is not a number", column, printable(field)));
}

}  // namespace credence
