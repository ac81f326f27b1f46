#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "credence/posteriors/plan.h"

namespace credence {

/// Noise beside the kernels' own: the same draw's coordinates, another purpose.
kernels::NoiseStream beside(kernels::NoiseStream noise, kernels::Purpose purpose = kernels::Purpose::structure);

/// z ~ N(0, I_rank) of a draw's low-rank part, in the type and place of the posterior's means. `first`: an element that
/// no other structure's z begins at within `rank`, the offset of an array of rank numbers or more for each slot.
torch::Tensor factor_coordinates(const Posterior& posterior, const kernels::NoiseStream& noise, std::int64_t first,
                                 std::int64_t rank);

/// The name of the tensor that a group's deviations are added to; of any other tensor its own.
std::string shared_name(const Slot& slot);

// The families beyond independent Gaussians and point estimates. `slots` are the network's, of one family and number.

/// dropout:P, dropconnect:P, gaussian-dropout:P: weights = mean times noise of mean one, so that the arena's mean is
/// the mean of the weights. dropout: one mask for each input unit of a layer, the tensor's second axis. Deviations of
/// groups take the noise of the tensor that they are added to, so that it multiplies the sum.
std::unique_ptr<Structure> make_multiplicative_noise(PosteriorPlan& plan, std::vector<int> slots);

/// Each weight is zero with probability 1 - sigmoid(inclusion_logit), else Gaussian. Gradients of the logits by the
/// straight-through concrete relaxation at temperature 1/2 (Jang et al. 2017; Bai et al. 2020), draws are exact.
std::unique_ptr<Structure> make_spike_slab(PosteriorPlan& plan, std::vector<int> slots);

/// w = mean + scale * eps + factor z, z ~ N(0, I_k) common to all slots; `factor` [slot's shape..., k].
std::unique_ptr<Structure> make_low_rank(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank);

/// w = mean + (diag(scale) + lower / sqrt(weights)) eps over the weights of all slots in order; `lower` [count,
/// weights], strictly lower triangular. The root keeps a step of Adam, equal for every element, from growing with the
/// network.
std::unique_ptr<Structure> make_full_rank(PosteriorPlan& plan, std::vector<int> slots);

/// q over a latent variable of K values, one for all examples: the slot holds its logits, Slot::categorical_log_prior
/// log p. Adds KL(q || p); the network, which reads the logits, takes the expectation.
std::unique_ptr<Structure> make_categorical(std::vector<int> slots);

// The families that are trained as a point estimate and random in predictions only. UserError at a draw before they are
// fitted, or have enough iterates.

/// w = mean + eps / sqrt(precision), with `precision` kept, [slot's shape].
std::unique_ptr<Structure> make_diagonal_laplace(PosteriorPlan& plan, std::vector<int> slots);
/// w = mean + covariance_root eps over the weights of all slots in order, `covariance_root` kept, [count, weights].
/// UserError above kLastLayerLimit weights.
std::unique_ptr<Structure> make_last_layer_laplace(PosteriorPlan& plan, std::vector<int> slots);
inline constexpr std::int64_t kLastLayerLimit = 4096;

/// w = average + sqrt(variance / 2) eps + deviations' z / sqrt(2 (K - 1)) (Maddox et al. 2019, eq. 1) with running
/// moments of the iterates and the last K iterates' deviations from the average then, [K, slot's shape...], all kept.
/// K counts as the number of iterates where there are fewer.
std::unique_ptr<Structure> make_swag(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank);

}  // namespace credence
