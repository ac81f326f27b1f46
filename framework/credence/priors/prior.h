#pragma once

#include <regex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "credence/base/errors.h"
#include "credence/kernels/kernel_set.h"
#include "credence/networks/layout.h"

namespace credence {

/// N(0, scale^2) for every weight.
struct NormalPrior {
  double scale = 1.0;  // standard deviation
};
/// N(0, 1 / fan_in) for weights, so that a layer's outputs keep the variance of its inputs; N(0, 1) for biases.
struct FanInPrior {};
/// No prior: with a point posterior, maximum likelihood.
struct NoPrior {};
using Prior = std::variant<NormalPrior, FanInPrior, NoPrior>;

/// normal:STDDEV | normal:fan-in | none
Prior parse_prior(const std::string& spec);
std::string describe(const Prior& prior);

/// Standard deviation of the prior of one tensor; infinite for none.
double prior_scale(const Prior& prior, const Slot& slot);

/// One value for every tensor, with exceptions by regular expression (searched in the tensor's name; the last rule that
/// matches wins). Specs: "VALUE" sets the default, "REGEX=VALUE" adds a rule.
template <class T>
struct TensorRules {
  T fallback;
  std::vector<std::pair<std::regex, T>> exceptions;
  std::vector<std::string> expressions;  // of the exceptions, as given

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

/// Splits "REGEX=VALUE" at its last '='; the regex is empty for a plain value. UserError for a bad expression.
std::pair<std::string, std::string> split_rule(const std::string& text);
std::regex compile_rule(const std::string& expression);

TensorRules<Prior> parse_priors(const std::vector<std::string>& specs);

/// log q and log p summed over one tensor: what KL and log joint are made of. Sums are of the kernels.
/// Closed form of KL(N(m, s^2) || N(m0, s0^2)), nats.
double kl_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);
/// E_q[-log p(w)], nats; for a point segment -log p(mean). 0 without a prior.
double cross_entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);
/// H[q], nats; 0 for a point segment.
double entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);

}  // namespace credence
