#include "credence/posteriors/family.h"

#include <utility>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

using enum Family::Kind;

const std::vector<std::pair<std::string, Family::Kind>> kNames = {
    {"mean-field", mean_field}, {"point", point},         {"sparse", sparse},
    {"spike-slab", spike_slab}, {"dropout", dropout},     {"dropconnect", dropconnect},
    {"low-rank", low_rank},     {"full-rank", full_rank}, {"gaussian-dropout", gaussian_dropout},
    {"laplace", laplace},       {"swag", swag},           {"categorical", categorical}};

std::vector<std::string> names() {
  std::vector<std::string> list;
  for (const auto& [name, kind] : kNames) list.push_back(name);
  return list;
}

bool takes_rate(Family::Kind kind) {
  return kind == dropout || kind == dropconnect || kind == gaussian_dropout;
}

}  // namespace

Family parse_family(const std::string& spec) {
  const Spec parsed = parse_spec(spec);
  for (const auto& [name, kind] : kNames) {
    if (name != parsed.name) continue;
    if (takes_rate(kind)) {
      const double rate = parse_number(parsed.arguments, "the probability in " + name + ":P");
      require(rate > 0.0 && rate < 1.0, "the probability in {}:P must lie between 0 and 1, not {}", name, rate);
      return {kind, rate};
    }
    if (kind == low_rank) {
      const std::int64_t rank = parse_integer(parsed.arguments, "the rank in low-rank:K");
      require(rank >= 1 && rank <= 1000, "the rank in low-rank:K must be between 1 and 1000, not {}", rank);
      return {kind, static_cast<double>(rank)};
    }
    if (kind == swag) {
      const std::int64_t rank = parsed.arguments.empty() ? 20 : parse_integer(parsed.arguments, "the rank in swag:K");
      require(rank >= 2 && rank <= 1000, "the rank in swag:K must be between 2 and 1000, not {}", rank);
      return {kind, static_cast<double>(rank)};
    }
    if (kind == laplace && !parsed.arguments.empty()) {
      require(parsed.arguments == "last-layer", "the posterior laplace takes no arguments but last-layer, not '{}'",
              parsed.arguments);
      return {kind, Family::kLastLayer};
    }
    require(parsed.arguments.empty(), "the posterior {} takes no arguments, not '{}'", name, parsed.arguments);
    return {kind, 0.0};
  }
  refuse_unknown("posterior", parsed.name, names());
}

std::string describe(const Family& family) {
  for (const auto& [name, kind] : kNames) {
    if (kind != family.kind) continue;
    if (kind == laplace && family.number == Family::kLastLayer) return name + ":last-layer";
    return takes_rate(kind) || kind == low_rank || kind == swag ? fmt::format("{}:{}", name, family.number) : name;
  }
  return "?";
}

EnsembleSpec split_ensemble(const std::vector<std::string>& specs) {
  EnsembleSpec ensemble;
  for (const std::string& spec : specs) {
    const Spec parsed = parse_spec(spec);
    if (parsed.name != "ensemble") {
      ensemble.families.push_back(spec);
      continue;
    }
    const auto comma = parsed.arguments.find(',');
    const std::int64_t members = parse_integer(parsed.arguments.substr(0, comma), "the members in ensemble:K");
    require(members >= 1 && members <= 1000, "the members in ensemble:K must be between 1 and 1000, not {}", members);
    ensemble.members = static_cast<int>(members);
    ensemble.families.push_back(comma == std::string::npos ? "mean-field" : parsed.arguments.substr(comma + 1));
  }
  return ensemble;
}

TensorRules<Family> parse_families(const std::vector<std::string>& specs) {
  return parse_rules(specs, Family{}, names(), parse_family);
}

}  // namespace credence
