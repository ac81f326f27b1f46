#include "credence/posteriors/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"
#include "credence/posteriors/structures.h"

namespace credence {
namespace {

using enum Family::Kind;

constexpr std::int64_t kFullRankLimit = 4096;

/// The standard deviation of a normal prior on this tensor; infinite for none; NaN for any other prior.
double normal_scale(const Prior& prior, const Slot& slot) {
  if (treatment(prior) != PriorTreatment::kernels) return std::numeric_limits<double>::quiet_NaN();
  return prior_scale(prior, slot);
}

bool is_none(const Prior& prior) {
  return std::holds_alternative<NoPrior>(prior);
}

/// Whether draws are the mean times noise.
bool is_multiplicative(const Family& family) {
  return family.kind == dropout || family.kind == dropconnect || family.kind == gaussian_dropout;
}

/// Whether single weights are Gaussian, so that E_q[-log p(w)] follows from means and standard deviations.
bool has_marginal_scales(const Family& family) {
  return family.gaussian() && family.kind != spike_slab;
}

void require_prior_of_family(const Slot& slot, const Family& family, const Prior& prior) {
  const std::string name = describe(family);
  require(!family.gaussian() || !is_none(prior),
          "{} has the posterior {} and no prior: its scale would grow without bound; give it a prior, or use "
          "--posterior point",
          slot.name, name);
  const bool spike_slab_prior = std::holds_alternative<SpikeSlabPrior>(prior);
  require(spike_slab_prior == (family.kind == spike_slab),
          "{} has the posterior {} and the prior {}: spike-slab needs both, --posterior spike-slab --prior spike-slab",
          slot.name, name, describe(prior));
  const bool log_uniform = std::holds_alternative<LogUniformPrior>(prior);
  require(!log_uniform || family.kind == mean_field || family.kind == sparse || family.kind == gaussian_dropout,
          "{} has the posterior {} and the prior log-uniform, which only mean-field, sparse and gaussian-dropout can "
          "have",
          slot.name, name);
  require(
      !std::holds_alternative<HorseshoePrior>(prior) || (family.kind != point && family.kind != swag),
      "{} is a point estimate and has the prior {}, whose density is infinite at zero, where the estimate would end; "
      "use the posterior mean-field, or another prior",
      slot.name, describe(prior));
  if (is_multiplicative(family)) {
    require(treatment(prior) == PriorTreatment::kernels || log_uniform,
            "{} has the posterior {}, whose surrogate is weight decay: its prior must be normal:STDDEV, normal:fan-in "
            "or none, not {}",
            slot.name, name, describe(prior));
  }
  const bool learned =
      std::holds_alternative<HierarchicalPrior>(prior) || std::holds_alternative<EmpiricalPrior>(prior);
  require(!learned || has_marginal_scales(family),
          "{} has the posterior {} and the prior {}, whose scale is learned: it needs the posterior mean-field, "
          "low-rank:K or full-rank, as a point estimate would draw it to zero",
          slot.name, name, describe(prior));
}

/// Dropout is noise on hidden units: biases and the layer that reads the data are point estimates.
bool has_units_to_drop(const Layout& network, const Slot& slot) {
  const auto is_weight = [](const Slot& s) { return s.shape.size() >= 2 && !s.is_bias; };
  const auto first = std::find_if(network.slots.begin(), network.slots.end(), is_weight);
  return is_weight(slot) && first->name != shared_name(slot);
}

/// The network's slots once for each member, as members of an ensemble by name.
Layout ensemble_layout(const Layout& network, int members) {
  if (members == 1) return network;
  Layout layout;
  for (int member = 0; member < members; ++member) {
    for (Slot slot : network.slots) {
      slot.name = fmt::format("member-{}.{}", member, slot.name);
      slot.offset += layout.elements;
      layout.slots.push_back(std::move(slot));
    }
    layout.elements += network.elements;
  }
  return layout;
}

/// How the network's tensor `slot` is optimised, and what of its prior the kernels do.
kernels::Segment plan_segment(const Slot& slot, const Family& family, const Prior& prior) {
  kernels::Segment segment;
  segment.offset = slot.offset;
  segment.count = slot.count;
  segment.gaussian = family.gaussian();
  segment.layerwise = !slot.is_bias && !slot.is_norm;
  const double scale = normal_scale(prior, slot);
  segment.prior_scale = std::isnan(scale) ? std::numeric_limits<double>::infinity() : scale;
  // E[w^2] of these draws is mean^2 times a constant: weight decay by the same constant.
  const double p = family.number;
  if (family.kind == dropout || family.kind == dropconnect) segment.prior_scale *= std::sqrt(1.0 - p);
  if (family.kind == gaussian_dropout) segment.prior_scale /= std::sqrt(1.0 + p / (1.0 - p));
  return segment;
}

void add_prior_term(PosteriorPlan& plan, int slot, const Family& family, const Prior& prior) {
  const PriorTreatment how = treatment(prior);
  if (how == PriorTreatment::kernels || family.kind == spike_slab) return;
  if (family.kind == gaussian_dropout) return;  // under log-uniform: KL is constant, as the rate is
  PriorTerm term{slot, prior, how == PriorTreatment::monte_carlo || !has_marginal_scales(family), {}};
  if (!term.monte_carlo) {
    const Slot owner = plan.layout.slots[static_cast<std::size_t>(slot)];
    for (const PriorArray& array : prior_arrays(prior, owner)) {
      term.arrays.push_back(plan.add_array(slot, array.name, array.shape, {.constant = array.initial}));
    }
  }
  plan.terms.push_back(std::move(term));
}

void add_structures(PosteriorPlan& plan) {
  std::map<std::tuple<int, int, double>, std::vector<int>> slots_of;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const Family& family = plan.families[static_cast<std::size_t>(slot)];
    slots_of[{plan.member_of(slot), static_cast<int>(family.kind), family.number}].push_back(slot);
  }
  for (const auto& [key, slots] : slots_of) {
    switch (static_cast<Family::Kind>(std::get<1>(key))) {
      case dropout:
      case dropconnect:
      case gaussian_dropout:
        plan.structures.push_back(make_multiplicative_noise(plan, slots));
        break;
      case spike_slab:
        plan.structures.push_back(make_spike_slab(plan, slots));
        break;
      case low_rank:
        plan.structures.push_back(make_low_rank(plan, slots, static_cast<std::int64_t>(std::get<2>(key))));
        break;
      case full_rank: {
        std::int64_t weights = 0;
        for (const int slot : slots) weights += plan.layout.slots[static_cast<std::size_t>(slot)].count;
        require(
            weights <= kFullRankLimit,
            "--posterior full-rank keeps a covariance over all of {} weights, and {} is the most; use low-rank:K, or "
            "full-rank for some tensors only, as in '--posterior fc3=full-rank'",
            weights, kFullRankLimit);
        plan.structures.push_back(make_full_rank(plan, slots));
        break;
      }
      case categorical:
        plan.structures.push_back(make_categorical(slots));
        break;
      case laplace:
        plan.structures.push_back(std::get<2>(key) == Family::kLastLayer ? make_last_layer_laplace(plan, slots)
                                                                         : make_diagonal_laplace(plan, slots));
        break;
      case swag:
        plan.structures.push_back(make_swag(plan, slots, static_cast<std::int64_t>(std::get<2>(key))));
        break;
      case point:
      case mean_field:
      case sparse:
        break;
    }
  }
}

/// A slot at the end of `arena`, beside `owner`.
int append_slot(Layout& arena, const Slot& owner, const std::string& array, std::vector<std::int64_t> shape) {
  Slot slot = owner;
  slot.array = array;
  slot.shape = std::move(shape);
  slot.offset = arena.elements;
  slot.count = 1;
  for (const std::int64_t size : slot.shape) slot.count *= size;
  arena.elements += (slot.count + kernels::kNoiseGroup - 1) / kernels::kNoiseGroup * kernels::kNoiseGroup;
  arena.slots.push_back(std::move(slot));
  return static_cast<int>(arena.slots.size()) - 1;
}

/// Weight and bias of the last layer with a matrix of weights.
bool in_last_layer(const Layout& network, const Slot& slot) {
  const auto layer_of = [](const Slot& s) { return s.name.substr(0, s.name.rfind('.') + 1); };
  const auto last = std::find_if(network.slots.rbegin(), network.slots.rend(),
                                 [](const Slot& s) { return s.shape.size() == 2 && !s.is_norm; });
  return last != network.slots.rend() && layer_of(*last) == layer_of(slot);
}

/// Noise that multiplies weights multiplies what groups add to them, too: the network uses the sum.
void require_noise_on_sums(const PosteriorPlan& plan) {
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    const Slot& slot = plan.layout.slots[i];
    if (!slot.is_deviation) continue;
    const std::string shared = shared_name(slot);
    for (std::size_t j = 0; j < plan.families.size(); ++j) {
      const Family& own = plan.families[i];
      const Family& other = plan.families[j];
      if (plan.layout.slots[j].name != shared || own == other) continue;
      require(!is_multiplicative(own) && !is_multiplicative(other),
              "{} has the posterior {}, and {}, to which groups add it, has {}: the network uses the sum, so dropout "
              "takes both or neither; give both the same --posterior",
              slot.name, describe(own), shared, describe(other));
    }
  }
}

void require_fit_afterwards(const PosteriorPlan& plan) {
  const auto fitted =
      std::find_if(plan.families.begin(), plan.families.end(), [](const Family& f) { return f.afterwards(); });
  if (fitted == plan.families.end()) return;
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    const Family& family = plan.families[i];
    const std::string& name = plan.layout.slots[i].name;
    require(
        family.kind != categorical || fitted->kind != laplace,
        "the posterior laplace is of weights, and {} holds logits over a latent variable of the network; use swag or "
        "mean-field",
        name);
    require(family == *fitted || family.kind == point || family.kind == categorical,
            "{} has the posterior {}, beside {}, which is fitted around a point estimate of the whole network: the "
            "other tensors must be point",
            name, describe(family), describe(*fitted));
    require(
        family.kind != laplace || (treatment(plan.priors[i]) == PriorTreatment::kernels && !is_none(plan.priors[i])),
        "{} has the posterior {} and the prior {}: a Laplace approximation needs normal:STDDEV or normal:fan-in", name,
        describe(family), describe(plan.priors[i]));
  }
}

}  // namespace

int PosteriorPlan::member_of(int slot) const {
  const int owner = slot < network_slots ? slot : array_owners[static_cast<std::size_t>(slot - network_slots)];
  return owner / member_slots();
}

int PosteriorPlan::keep_array(int owner, const std::string& array, std::vector<std::int64_t> shape) {
  kept_owners.push_back(owner);
  return append_slot(kept, layout.slots[static_cast<std::size_t>(owner)], array, std::move(shape));
}

int PosteriorPlan::add_array(int owner, const std::string& array, std::vector<std::int64_t> shape, ArrayStart start) {
  const Slot beside = layout.slots[static_cast<std::size_t>(owner)];
  const int index = append_slot(layout, beside, array, std::move(shape));
  const Slot& slot = layout.slots.back();
  segments.push_back({.offset = slot.offset, .count = slot.count, .gaussian = false});
  array_owners.push_back(owner);
  start.slot = index;
  starts.push_back(start);
  return index;
}

PosteriorPlan plan_posterior(const Layout& network, const TensorRules<Family>& families,
                             const TensorRules<Prior>& priors, int members) {
  require_rules_to_match(families, network);
  require_rules_to_match(priors, network);
  PosteriorPlan plan;
  plan.layout = ensemble_layout(network, members);
  plan.members = members;
  plan.network_slots = static_cast<int>(plan.layout.slots.size());
  plan.network_elements = plan.layout.elements;
  for (std::size_t i = 0; i < plan.layout.slots.size(); ++i) {
    const Slot& slot = network.slots[i % network.slots.size()];
    const Family* family_rule = families.exception_for(slot.name);
    const Prior* prior_rule = priors.exception_for(slot.name);
    const bool left_to_default = slot.point_by_default() && family_rule == nullptr;
    Family family = family_rule != nullptr ? *family_rule : families.fallback;
    if (left_to_default && family.kind != swag) family = {point, 0.0};  // swag averages the whole network
    const bool latent = !slot.categorical_log_prior.empty();
    require(latent || family.kind != categorical,
            "the posterior categorical is for logits over a latent variable of the network, and {} holds none",
            slot.name);
    if (latent) {
      require(prior_rule == nullptr && (family_rule == nullptr || family_rule->kind == categorical),
              "{} holds the logits of q over a latent variable, whose prior is the network's "
              "(--network adaptive-depth:L,prior=...); write rules for --posterior and --prior that leave it out",
              slot.name);
      family = {categorical, 0.0};
    }
    if (family.kind == dropout && !has_units_to_drop(network, slot)) family = {point, 0.0};
    if (family == Family{laplace, Family::kLastLayer} && !in_last_layer(network, slot)) {
      require(family_rule == nullptr,
              "{} is not in the last Linear layer, and the posterior laplace:last-layer is of that one only; use "
              "laplace for other tensors",
              slot.name);
      family = {point, 0.0};
    }
    Prior prior = prior_rule != nullptr ? *prior_rule : left_to_default || latent ? Prior(NoPrior{}) : priors.fallback;
    const bool prior_given = prior_rule != nullptr || (priors.fallback_given && !left_to_default && !latent);
    if (slot.is_deviation && prior_rule == nullptr && family.kind != sparse && has_marginal_scales(family) &&
        !std::holds_alternative<InformedPrior>(prior)) {
      prior = HierarchicalPrior{};
    }
    if (family.kind == sparse) {
      require(
          !prior_given || std::holds_alternative<LogUniformPrior>(prior),
          "{} has the posterior sparse, whose prior is log-uniform, not {}; leave --prior out for it, or add --prior "
          "'REGEX=log-uniform' for the tensors that are sparse",
          slot.name, describe(prior));
      prior = LogUniformPrior{};
    }
    require_prior_of_family(slot, family, prior);
    require_fit(prior, slot);
    plan.segments.push_back(plan_segment(plan.layout.slots[i], family, prior));
    plan.families.push_back(family);
    plan.priors.push_back(std::move(prior));
  }
  require_noise_on_sums(plan);
  require_fit_afterwards(plan);
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    add_prior_term(plan, slot, plan.families[index], plan.priors[index]);
  }
  add_structures(plan);
  require(!families.fallback.afterwards() || !plan.structures.empty(),
          "--posterior {} finds nothing to be fitted to in this network: it has no Linear layer",
          describe(families.fallback));
  require(families.fallback.kind != dropout || !plan.structures.empty(),
          "--posterior dropout:P drops hidden units, and this network has none; use dropconnect:P or mean-field");
  return plan;
}

}  // namespace credence
