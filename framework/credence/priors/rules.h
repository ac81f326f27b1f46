#pragma once

#include <regex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "credence/base/errors.h"
#include "credence/networks/layout.h"

namespace credence {

/// One value for every tensor, with exceptions by regular expression (searched in the tensor's name; the last rule that
/// matches wins). Specs: "VALUE" sets the default, "REGEX=VALUE" adds a rule.
template <class T>
struct TensorRules {
  T fallback;
  std::vector<std::pair<std::regex, T>> exceptions;
  std::vector<std::string> expressions;  // of the exceptions, as given
  bool fallback_given = false;           // by somebody, rather than left at what it is

  const T* exception_for(const std::string& name) const {
    for (auto rule = exceptions.rbegin(); rule != exceptions.rend(); ++rule) {
      if (std::regex_search(name, rule->first)) return &rule->second;
    }
    return nullptr;
  }
};

/// UserError where a rule matches no tensor: a typing error would silently change the model.
template <class T>
void require_rules_to_match(const TensorRules<T>& rules, const Layout& layout) {
  for (std::size_t i = 0; i < rules.expressions.size(); ++i) {
    bool matches = false;
    for (const Slot& slot : layout.slots) matches = matches || std::regex_search(slot.name, rules.exceptions[i].first);
    require(matches, "the rule '{}' matches no tensor of the network; its tensors are named like {}",
            rules.expressions[i], layout.slots.front().name);
  }
}

/// {regex, value} of "REGEX=VALUE"; the regex is empty for a plain value. Both sides may contain '=' themselves, so the
/// value is known by the name that it starts with (`known`, before a ':' or the end): the text itself, else what
/// follows the first '=' where that is one. Where nothing is known, the last '=' before a letter decides, for the
/// message.
std::pair<std::string, std::string> split_rule(const std::string& text, std::span<const std::string> known);
std::regex compile_rule(const std::string& expression);

/// `parse` makes a T of a value and throws UserError where it cannot.
template <class T, class Parse>
TensorRules<T> parse_rules(const std::vector<std::string>& specs, T fallback, std::span<const std::string> known,
                           Parse parse) {
  TensorRules<T> rules{std::move(fallback), {}, {}, false};
  for (const std::string& spec : specs) {
    const auto [expression, value] = split_rule(spec, known);
    if (expression.empty()) {
      rules.fallback = parse(value);
      rules.fallback_given = true;
    } else {
      rules.exceptions.emplace_back(compile_rule(expression), parse(value));
      rules.expressions.push_back(expression);
    }
  }
  return rules;
}

}  // namespace credence
