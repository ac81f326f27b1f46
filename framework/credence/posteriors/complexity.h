#pragma once

#include <vector>

#include "credence/posteriors/arena_kernels.h"
#include "credence/posteriors/posterior.h"

namespace credence {

/// What a tensor's parts of the objective hold beyond the kernels' terms, in nats.
struct TermNats {
  int slot = -1;  // of the network; -1: of all together
  double cross_entropy = 0.0;
  double entropy = 0.0;
};

/// Weights of the objective's two parts, already divided by N.
struct TermWeights {
  double cross_entropy = 0.0;
  double entropy = 0.0;
};

/// The closed-form terms of priors and structures that the kernels do not know, at the posterior's present values. The
/// list is that of all members; of those that are not worked on the terms are zero.
std::vector<TermNats> closed_form_terms(const Posterior& posterior);

/// The same, and their gradients added to the sums of a step, which the optimizer multiplies by `multiplier`.
std::vector<TermNats> add_closed_form_terms(Posterior& posterior, const TermWeights& weights, double multiplier,
                                            GradientSum& gradient);

/// -log p(w) of the tensors whose priors are charged at draws, for one member's newest draw, to which `parameters` (the
/// network's tensors by slot) are bound: float64 scalars with gradients to them, in the order of monte_carlo_slots();
/// undefined for the slots of other members.
std::vector<torch::Tensor> monte_carlo_terms(const Posterior& posterior, const std::vector<torch::Tensor>& parameters,
                                             int member);
std::vector<int> monte_carlo_slots(const PosteriorPlan& plan);

}  // namespace credence
