#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace credence {

/// "name:arguments", the form of every value that names a choice. Without ':' the arguments are empty.
struct Spec {
  std::string name;
  std::string arguments;
};
Spec parse_spec(std::string_view text);

/// Parts between separators; no parts for an empty text.
std::vector<std::string> split(std::string_view text, char separator);

/// The whole text as a finite number; UserError "WHAT must be ..., not TEXT" otherwise.
double parse_number(std::string_view text, std::string_view what);
std::int64_t parse_integer(std::string_view text, std::string_view what);

/// A name from a file as a message may show it.
std::string shown(std::string_view name);

/// The known name nearest to `name` by edit distance.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

/// UserError "unknown WHAT 'name'; did you mean 'x'? Known: a, b, c."
[[noreturn]] void refuse_unknown(std::string_view what, std::string_view name, std::span<const std::string> known);

}  // namespace credence
