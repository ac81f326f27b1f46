#include "credence/priors/prior.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

const double kHalfLogTwoPi = 0.5 * std::log(2.0 * std::numbers::pi);

}  // namespace

Prior parse_prior(const std::string& spec) {
  const Spec parsed = parse_spec(spec);
  if (parsed.name == "none") {
    require(parsed.arguments.empty(), "the prior none takes no arguments, not '{}'", parsed.arguments);
    return NoPrior{};
  }
  if (parsed.name == "normal") {
    if (parsed.arguments == "fan-in") return FanInPrior{};
    const double scale =
        parsed.arguments.empty() ? 1.0 : parse_number(parsed.arguments, "the standard deviation in normal:STDDEV");
    require(scale > 0.0, "the standard deviation in normal:STDDEV must be positive, not {}", parsed.arguments);
    return NormalPrior{scale};
  }
  const std::vector<std::string> known = {"normal", "none"};
  refuse_unknown("prior", parsed.name, known);
}

std::string describe(const Prior& prior) {
  if (const auto* normal = std::get_if<NormalPrior>(&prior)) return fmt::format("normal:{}", normal->scale);
  return std::holds_alternative<FanInPrior>(prior) ? "normal:fan-in" : "none";
}

double prior_scale(const Prior& prior, const Slot& slot) {
  if (const auto* normal = std::get_if<NormalPrior>(&prior)) return normal->scale;
  if (std::holds_alternative<NoPrior>(prior)) return std::numeric_limits<double>::infinity();
  return slot.is_bias || slot.is_norm ? 1.0 : 1.0 / std::sqrt(static_cast<double>(slot.fan_in));
}

std::pair<std::string, std::string> split_rule(const std::string& text) {
  const auto equals = text.rfind('=');
  if (equals == std::string::npos) return {"", text};
  require(equals > 0, "a rule is REGEX=VALUE, not '{}'", text);
  return {text.substr(0, equals), text.substr(equals + 1)};
}

std::regex compile_rule(const std::string& expression) {
  try {
    return std::regex(expression, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw UserError(fmt::format("'{}' is not a regular expression: {}", expression, error.what()));
  }
}

TensorRules<Prior> parse_priors(const std::vector<std::string>& specs) {
  TensorRules<Prior> rules{NormalPrior{}, {}, {}};
  for (const std::string& spec : specs) {
    const auto [expression, value] = split_rule(spec);
    if (expression.empty()) {
      rules.fallback = parse_prior(value);
    } else {
      rules.exceptions.emplace_back(compile_rule(expression), parse_prior(value));
      rules.expressions.push_back(expression);
    }
  }
  return rules;
}

double cross_entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums) {
  if (std::isinf(segment.prior_scale)) return 0.0;
  return static_cast<double>(segment.count) * (kHalfLogTwoPi + std::log(segment.prior_scale)) +
         sums.squared_deviation / (2.0 * segment.prior_scale * segment.prior_scale);
}

double entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums) {
  if (!segment.gaussian) return 0.0;
  return sums.log_scale + static_cast<double>(segment.count) * (kHalfLogTwoPi + 0.5);
}

double kl_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums) {
  // Not the difference of the two above: where q = p that would cancel large numbers.
  const double count = static_cast<double>(segment.count);
  return count * (std::log(segment.prior_scale) - 0.5) - sums.log_scale +
         sums.squared_deviation / (2.0 * segment.prior_scale * segment.prior_scale);
}

}  // namespace credence
