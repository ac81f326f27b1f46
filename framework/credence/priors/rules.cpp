#include "credence/priors/rules.h"

#include <algorithm>
#include <cctype>

#include "credence/base/text.h"

namespace credence {
namespace {

bool names_a_known(const std::string& value, std::span<const std::string> known) {
  return std::find(known.begin(), known.end(), parse_spec(value).name) != known.end();
}

}  // namespace

std::pair<std::string, std::string> split_rule(const std::string& text, std::span<const std::string> known) {
  if (names_a_known(text, known)) return {"", text};
  auto border = std::string::npos;
  for (auto equals = text.find('='); equals != std::string::npos; equals = text.find('=', equals + 1)) {
    const std::string value = text.substr(equals + 1);
    if (names_a_known(value, known)) {
      border = equals;
      break;
    }
    if (value.empty() || std::isalpha(static_cast<unsigned char>(value.front())) != 0) border = equals;
  }
  if (border == std::string::npos) return {"", text};
  require(border > 0, "a rule is REGEX=VALUE, not '{}'", text);
  return {text.substr(0, border), text.substr(border + 1)};
}

std::regex compile_rule(const std::string& expression) {
  try {
    return std::regex(expression, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw UserError(fmt::format("'{}' is not a regular expression: {}", expression, error.what()));
  }
}

}  // namespace credence
