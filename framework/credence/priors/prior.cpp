#include "credence/priors/prior.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/overloaded.h"
#include "credence/base/text.h"

namespace credence {
namespace {

const double kHalfLogTwoPi = 0.5 * std::log(2.0 * std::numbers::pi);

const std::vector<std::string> kKnown = {"normal",        "none",       "laplace",   "logistic",    "student-t",
                                         "scale-mixture", "spike-slab", "horseshoe", "log-uniform", "hierarchical",
                                         "empirical",     "checkpoint", "weights"};

/// Positive numbers between commas; those left out keep their defaults. `form` shows the whole spec, for messages.
std::vector<double> positive_numbers(const std::string& arguments, const std::string& form,
                                     std::vector<double> defaults) {
  const std::vector<std::string> given = split(arguments, ',');
  require(given.size() <= defaults.size(), "the prior {} takes no more arguments than that, not '{}'", form, arguments);
  for (std::size_t i = 0; i < given.size(); ++i) {
    defaults[i] = parse_number(given[i], fmt::format("each argument of the prior {}", form));
    require(defaults[i] > 0.0, "each argument of the prior {} must be positive, not {}", form, given[i]);
  }
  return defaults;
}

double positive_number(const std::string& arguments, const std::string& form, double otherwise) {
  return positive_numbers(arguments, form, {otherwise}).front();
}

double require_probability(double value, const std::string& form) {
  require(value < 1.0, "the probability P of the prior {} must be below 1, not {}", form, value);
  return value;
}

HorseshoePrior parse_horseshoe(std::string arguments) {
  HorseshoePrior prior;
  const auto comma = arguments.rfind(',');
  const std::string last = comma == std::string::npos ? arguments : arguments.substr(comma + 1);
  if (last == "unit") {
    prior.per_unit = true;
    arguments = comma == std::string::npos ? "" : arguments.substr(0, comma);
  }
  prior.scale = positive_number(arguments, "horseshoe:S,unit", prior.scale);
  return prior;
}

/// {FILE, K} of "FILE,key=K"; file names may contain commas.
std::pair<std::string, double> parse_file(const Spec& spec, const std::string& key, double otherwise) {
  const std::string form = fmt::format("{}:FILE,{}=NUMBER", spec.name, key);
  const auto option = spec.arguments.rfind(fmt::format(",{}=", key));
  const std::string file = spec.arguments.substr(0, option);
  require(!file.empty(), "the prior {} needs a file, not '{}'", form, spec.arguments);
  if (option == std::string::npos) return {file, otherwise};
  const std::string number = spec.arguments.substr(option + key.size() + 2);
  require(!number.empty(), "the prior {} needs a number after '{}='", form, key);
  return {file, positive_number(number, form, otherwise)};
}

template <class T>
T without_arguments(const Spec& spec) {
  require(spec.arguments.empty(), "the prior {} takes no arguments, not '{}'", spec.name, spec.arguments);
  return T{};
}

Prior parse_normal(const std::string& arguments) {
  if (arguments == "fan-in") return FanInPrior{};
  return NormalPrior{positive_number(arguments, "normal:STDDEV", 1.0)};
}

Prior parse_mixture(const Spec& spec) {
  if (spec.name == "spike-slab") {
    const auto values = positive_numbers(spec.arguments, "spike-slab:P,S", {0.5, 1.0});
    return SpikeSlabPrior{require_probability(values[0], "spike-slab:P,S"), values[1]};
  }
  const auto values = positive_numbers(spec.arguments, "scale-mixture:P,S1,S2", {0.5, 1.0, 0.002});
  return ScaleMixturePrior{require_probability(values[0], "scale-mixture:P,S1,S2"), values[1], values[2]};
}

}  // namespace

Prior parse_prior(const std::string& spec) {
  const Spec parsed = parse_spec(spec);
  const std::string& name = parsed.name;
  const std::string& arguments = parsed.arguments;
  if (name == "normal") return parse_normal(arguments);
  if (name == "none") return without_arguments<NoPrior>(parsed);
  if (name == "laplace") return LaplacePrior{positive_number(arguments, "laplace:S", 1.0)};
  if (name == "logistic") return LogisticPrior{positive_number(arguments, "logistic:S", 1.0)};
  if (name == "student-t") {
    const auto values = positive_numbers(arguments, "student-t:DOF,S", {4.0, 1.0});
    return StudentTPrior{values[0], values[1]};
  }
  if (name == "scale-mixture" || name == "spike-slab") return parse_mixture(parsed);
  if (name == "horseshoe") return parse_horseshoe(arguments);
  if (name == "log-uniform") return without_arguments<LogUniformPrior>(parsed);
  if (name == "hierarchical") return HierarchicalPrior{positive_number(arguments, "hierarchical:A", 1.0)};
  if (name == "empirical") return without_arguments<EmpiricalPrior>(parsed);
  if (name == "checkpoint") {
    const auto [file, inflate] = parse_file(parsed, "inflate", CheckpointPrior{}.inflate);
    return CheckpointPrior{file, inflate};
  }
  if (name == "weights") {
    Spec rest = parsed;
    double delta = 0.0;
    if (const auto found = rest.arguments.rfind(",delta="); found != std::string::npos) {
      const std::string number = rest.arguments.substr(found + 7);
      require(!number.empty(), "the prior weights:FILE,scale=S,delta=D needs a number after 'delta='");
      delta = positive_number(number, "weights:FILE,scale=S,delta=D", 0.0);
      rest.arguments.resize(found);
    }
    const auto [file, scale] = parse_file(rest, "scale", WeightsPrior{}.scale);
    return WeightsPrior{file, scale, delta};
  }
  refuse_unknown("prior", name, kKnown);
}

std::string describe(const Prior& prior) {
  return std::visit(
      Overloaded{
          [](const NormalPrior& p) { return fmt::format("normal:{}", p.scale); },
          [](const FanInPrior&) { return std::string("normal:fan-in"); },
          [](const NoPrior&) { return std::string("none"); },
          [](const LaplacePrior& p) { return fmt::format("laplace:{}", p.scale); },
          [](const LogisticPrior& p) { return fmt::format("logistic:{}", p.scale); },
          [](const StudentTPrior& p) { return fmt::format("student-t:{},{}", p.degrees, p.scale); },
          [](const ScaleMixturePrior& p) {
            return fmt::format("scale-mixture:{},{},{}", p.probability, p.first_scale, p.second_scale);
          },
          [](const SpikeSlabPrior& p) { return fmt::format("spike-slab:{},{}", p.probability, p.scale); },
          [](const HorseshoePrior& p) { return fmt::format("horseshoe:{}{}", p.scale, p.per_unit ? ",unit" : ""); },
          [](const LogUniformPrior&) { return std::string("log-uniform"); },
          [](const HierarchicalPrior& p) { return fmt::format("hierarchical:{}", p.hyper_scale); },
          [](const EmpiricalPrior&) { return std::string("empirical"); },
          [](const InformedPrior& p) { return p.source; },
          [](const CheckpointPrior& p) { return fmt::format("checkpoint:{},inflate={}", p.file, p.inflate); },
          [](const WeightsPrior& p) {
            return fmt::format("weights:{},scale={}{}", p.file, p.scale,
                               p.delta > 0.0 ? fmt::format(",delta={}", p.delta) : "");
          },
      },
      prior);
}

double prior_scale(const Prior& prior, const Slot& slot) {
  if (const auto* normal = std::get_if<NormalPrior>(&prior)) return normal->scale;
  if (!std::holds_alternative<FanInPrior>(prior)) return std::numeric_limits<double>::infinity();
  return slot.is_bias || slot.is_norm ? 1.0 : 1.0 / std::sqrt(static_cast<double>(slot.fan_in));
}

TensorRules<Prior> parse_priors(const std::vector<std::string>& specs) {
  return parse_rules<Prior>(specs, NormalPrior{}, kKnown, parse_prior);
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
