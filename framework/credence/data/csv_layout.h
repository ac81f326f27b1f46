#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "credence/data/data_source.h"

namespace credence {

/// A place in a text file, for messages: "FILE, line 7".
struct CsvPlace {
  const std::string& file;
  std::int64_t line;
};
[[noreturn]] void throw_csv_error(const CsvPlace& place, const std::string& message);

/// A field as messages show it: short, no control characters, whatever kind of file was taken for a table.
std::string printable(std::string_view field);

/// Cuts a line at its commas; blanks around a field and quotes around its content are dropped (a doubled quote inside
/// stays doubled). The views point into `line`.
void split_csv_line(std::string_view line, const CsvPlace& place, std::vector<std::string_view>& fields);

enum class CsvRole : std::uint8_t { feature, target, split };

/// What the columns are for; read_csv documents the rules.
struct CsvLayout {
  std::vector<std::string> names;
  std::vector<CsvRole> roles;
  std::int64_t features = 0;
  std::int64_t targets = 0;
  bool has_split = false;
  bool real_valued = false;  // by its name, whatever the values
};
CsvLayout parse_csv_header(const std::vector<std::string_view>& fields, const CsvPlace& place);

/// Where the features of `trained` are among the columns, in the network's order; read_csv_inputs documents the rules.
std::vector<std::size_t> find_features(const std::vector<std::string_view>& fields, const ExampleSpec& trained,
                                       const CsvPlace& place);

/// The finite number that is all of `field`, else an exception that names the column.
double parse_csv_number(std::string_view field, const std::string& column, const CsvPlace& place);

}  // namespace credence
