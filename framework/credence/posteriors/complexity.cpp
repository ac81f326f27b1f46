#include "credence/posteriors/complexity.h"

#include "credence/base/errors.h"

namespace credence {
namespace {

struct SlotTerm {
  int slot;
  ComplexityNats nats;
};

/// Members of an ensemble have the same terms in the same order: those of the members that are worked on, which follow
/// each other in `terms`, are put in their places among the terms of all.
void append_to_all(const Posterior& posterior, const std::vector<SlotTerm>& terms, std::vector<SlotTerm>& all) {
  const PosteriorPlan& plan = posterior.plan();
  const auto [first, last] = posterior.worked_on();
  const std::size_t per_member = terms.size() / static_cast<std::size_t>(last - first);
  for (int member = 0; member < plan.members; ++member) {
    const bool own = first <= member && member < last;
    for (std::size_t i = 0; i < per_member; ++i) {
      const SlotTerm& term = terms[static_cast<std::size_t>(own ? member - first : 0) * per_member + i];
      const int shift = own || term.slot < 0 ? 0 : (member - first) * plan.member_slots();
      all.push_back({term.slot + shift, own ? term.nats : ComplexityNats{}});
    }
  }
}

std::vector<SlotTerm> differentiable_terms(const Posterior& posterior, PosteriorLeaves& leaves) {
  std::vector<SlotTerm> terms;
  const PosteriorPlan& plan = posterior.plan();
  for (const PriorTerm& term : plan.terms) {
    if (term.monte_carlo || !posterior.works_on(term.slot)) continue;
    std::vector<torch::Tensor> arrays;
    for (const int array : term.arrays) arrays.push_back(leaves.mean(array));
    const Structure* const structure = posterior.structure_of(term.slot);
    const torch::Tensor scale =
        structure != nullptr ? structure->marginal_scale(leaves, term.slot) : leaves.scale(term.slot);
    terms.push_back({term.slot,
                     {cross_entropy_nats(term.prior, plan.layout.slots[static_cast<std::size_t>(term.slot)],
                                         leaves.mean(term.slot), scale, arrays),
                      prior_entropy_nats(term.prior, arrays)}});
  }
  std::vector<SlotTerm> of_structures;
  for (const auto& structure : plan.structures) {
    if (!posterior.works_on(structure->slots().front())) continue;
    for (auto& [slot, nats] : structure->complexity(posterior, leaves))
      of_structures.push_back({slot, std::move(nats)});
  }
  std::vector<SlotTerm> all;
  append_to_all(posterior, terms, all);
  append_to_all(posterior, of_structures, all);
  return all;
}

double value_of(const torch::Tensor& nats) {
  return nats.defined() ? nats.item<double>() : 0.0;
}

std::vector<TermNats> values_of(const std::vector<SlotTerm>& terms) {
  std::vector<TermNats> values;
  for (const auto& [slot, nats] : terms) values.push_back({slot, value_of(nats.cross_entropy), value_of(nats.entropy)});
  return values;
}

/// The sum of eps * gradient as an array of its own: so far it may only be implied by the noise of a single draw.
void materialize_scaled(Posterior& posterior, GradientSum& gradient) {
  if (gradient.scaled.defined() || !posterior.has_gaussian()) return;
  gradient.scaled = torch::zeros_like(posterior.mean());
  const torch::Tensor scratch = torch::empty_like(posterior.mean());
  for (std::size_t i = 0; i < gradient.slots.size(); ++i) {
    const kernels::Segment& segment = posterior.segments()[i];
    if (!segment.gaussian || segment.count == 0) continue;
    posterior.kernels().accumulate(segment, gradient.slots[i], gradient.noise, false, scratch, gradient.scaled);
  }
}

}  // namespace

PosteriorLeaves::PosteriorLeaves(const Posterior& posterior) : posterior_(posterior) {
  leaves_.reserve(3 * posterior.layout().slots.size());  // references to leaves stay valid
}

const torch::Tensor& PosteriorLeaves::leaf(int slot, bool is_scale) {
  for (const Leaf& leaf : leaves_) {
    if (leaf.slot == slot && leaf.is_scale == is_scale) return leaf.value;
  }
  if (is_scale && !scales_.defined()) scales_ = posterior_.scales();
  const torch::Tensor& arena = is_scale ? scales_ : posterior_.mean();
  ensure(leaves_.size() < leaves_.capacity(), "more leaves than arrays");
  leaves_.push_back({slot, is_scale, posterior_.view(arena, slot).detach().requires_grad_()});
  return leaves_.back().value;
}

const torch::Tensor& PosteriorLeaves::mean(int slot) {
  return leaf(slot, false);
}

const torch::Tensor& PosteriorLeaves::scale(int slot) {
  return leaf(slot, true);
}

std::vector<TermNats> closed_form_terms(const Posterior& posterior) {
  const torch::NoGradGuard no_grad;
  PosteriorLeaves leaves(posterior);
  return values_of(differentiable_terms(posterior, leaves));
}

std::vector<TermNats> add_closed_form_terms(Posterior& posterior, const TermWeights& weights, double multiplier,
                                            GradientSum& gradient) {
  PosteriorLeaves leaves(posterior);
  const std::vector<SlotTerm> terms = differentiable_terms(posterior, leaves);
  if (terms.empty()) return {};
  torch::Tensor total;
  const auto add = [&](const torch::Tensor& nats, double weight) {
    if (!nats.defined() || !nats.requires_grad()) return;
    total = total.defined() ? total + nats * weight : nats * weight;
  };
  for (const auto& [slot, nats] : terms) {
    add(nats.cross_entropy, weights.cross_entropy);
    add(nats.entropy, -weights.entropy);
  }
  if (!total.defined()) return values_of(terms);
  std::vector<torch::Tensor> inputs;
  for (const auto& leaf : leaves.used()) inputs.push_back(leaf.value);
  const auto gradients = torch::autograd::grad({total}, inputs, {}, /*retain_graph=*/false, /*create_graph=*/false,
                                               /*allow_unused=*/true);
  const torch::NoGradGuard no_grad;
  materialize_scaled(posterior, gradient);  // before anything joins the likelihood's gradient: that is what eps scales
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const auto& leaf = leaves.used()[i];
    const auto index = static_cast<std::size_t>(leaf.slot);
    if (leaf.is_scale) {
      posterior.view(gradient.scaled, leaf.slot).add_(gradients[i], 1.0 / multiplier);
    } else {
      gradient.slots[index].view(gradients[i].sizes()).add_(gradients[i], 1.0 / multiplier);
    }
  }
  return values_of(terms);
}

std::vector<int> monte_carlo_slots(const PosteriorPlan& plan) {
  std::vector<int> slots;
  for (const PriorTerm& term : plan.terms) {
    if (term.monte_carlo) slots.push_back(term.slot);
  }
  return slots;
}

std::vector<torch::Tensor> monte_carlo_terms(const Posterior& posterior, const std::vector<torch::Tensor>& parameters,
                                             int member) {
  std::vector<torch::Tensor> terms;
  const PosteriorPlan& plan = posterior.plan();
  for (const PriorTerm& term : plan.terms) {
    if (!term.monte_carlo) continue;
    terms.emplace_back();
    if (plan.member_of(term.slot) != member) continue;
    const auto parameter = static_cast<std::size_t>(term.slot % plan.member_slots());
    terms.back() = negative_log_density_nats(term.prior, plan.layout.slots[static_cast<std::size_t>(term.slot)],
                                             parameters[parameter]);
  }
  return terms;
}

}  // namespace credence
