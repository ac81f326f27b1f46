#include "kind_rules.h"

#include <string>
#include <string_view>

#include "credence/base/text.h"

namespace credence {
namespace {

/// Matches this name only.
std::string expression_of(const std::string& name) {
  std::string expression = "^";
  for (const char letter : name) {
    if (std::string_view("\\^$.|?*+()[]{}").find(letter) != std::string_view::npos) expression += '\\';
    expression += letter;
  }
  return expression + "$";
}

template <class T>
void put_first(TensorRules<T>& rules, const std::string& name, const T& value) {
  const std::string expression = expression_of(name);
  rules.exceptions.emplace(rules.exceptions.begin(), compile_rule(expression), value);
  rules.expressions.insert(rules.expressions.begin(), expression);
}

bool is_bayesian(const OptionValues& values, const std::string& option) {
  const std::vector<std::string> known = {"bayesian", "point"};
  const std::string value = values.text(option);
  if (value != known[0] && value != known[1]) refuse_unknown(option, value, known);
  return value == known[0];
}

}  // namespace

void add_kind_rules(const OptionValues& values, const Layout& network, TensorRules<Family>& families,
                    TensorRules<Prior>& priors) {
  const bool norms = is_bayesian(values, "norm-parameters");
  const bool biases = is_bayesian(values, "biases");
  const Family like_others = families.fallback;
  for (const Slot& slot : network.slots) {
    if (slot.is_norm) {
      if (norms) put_first(families, slot.name, like_others);
    } else if (slot.is_bias && !biases && !slot.is_likelihood) {
      put_first(families, slot.name, Family{Family::Kind::point, 0.0});
      put_first(priors, slot.name, Prior(NoPrior{}));
    }
  }
}

}  // namespace credence
