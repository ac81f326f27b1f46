#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "credence/networks/layout.h"
#include "credence/priors/prior.h"

namespace credence {

/// How E_q[-log p(w)] is taken for a Gaussian q: by the kernels from their sums, by cross_entropy_nats(), or as
/// negative_log_density_nats() of a draw.
enum class PriorTreatment : std::uint8_t { kernels, closed_form, monte_carlo };
PriorTreatment treatment(const Prior& prior);

/// An array that the prior of one tensor adds to what is optimised.
struct PriorArray {
  std::string name;
  std::vector<std::int64_t> shape;
  double initial = 0.0;  // every element
};
/// hierarchical: `prior_location` [1] and `prior_raw_scale` [1] of q over the tensor's scale s,
/// log s ~ N(location, softplus(raw scale)^2), which start at the fan-in scale. None for the others.
std::vector<PriorArray> prior_arrays(const Prior& prior, const Slot& slot);

/// UserError unless the prior fits the tensor: an informed prior must know its name, with its shape and with finite
/// means and positive finite scales. To be called once, before training.
void require_fit(const Prior& prior, const Slot& slot);

/// E_q[-log p(w)] of one tensor, q = N(mean, scale^2), both [slot.shape], `arrays` those of prior_arrays(): nats,
/// a float64 scalar with gradients to all of them. InternalError where treatment() is Monte Carlo.
/// log-uniform: the KL of Molchanov et al. 2017, eq. 14, plus the entropy of q; subtracting that leaves their KL,
/// without its unknown constant (0 for mean 0). hierarchical: with E_q(s)[-log p(s)]. empirical: with s^2 = mean of
/// mean^2 + scale^2. spike-slab: of the slab, a Gaussian q being never exactly 0; see spike_slab_kl_nats().
torch::Tensor cross_entropy_nats(const Prior& prior, const Slot& slot, const torch::Tensor& mean,
                                 const torch::Tensor& scale, const std::vector<torch::Tensor>& arrays);

/// The entropy of q over what the prior's arrays describe, nats, a float64 scalar with gradients: of hierarchical's s;
/// undefined for the others.
torch::Tensor prior_entropy_nats(const Prior& prior, const std::vector<torch::Tensor>& arrays);

/// -log p(w) summed over one tensor [slot.shape]: nats, a float64 scalar with gradient; 0 for none. hierarchical: s
/// integrated out. The density of horseshoe and hierarchical diverges at w = 0: where the length of the weights that
/// share a scale is below 1e-4 of the prior's scale, they count as that long and the gradient is 0.
/// UserError for priors that have no density: log-uniform (improper), empirical (none before q), spike-slab (an atom).
torch::Tensor negative_log_density_nats(const Prior& prior, const Slot& slot, const torch::Tensor& weights);

/// KL(q || p), nats, a float64 scalar with gradients, summed over q = inclusion N(mean, scale^2) + (1 - inclusion)
/// delta_0; all of one shape. Inclusion probabilities count as between 2^-50 and 1 - 2^-50.
torch::Tensor spike_slab_kl_nats(const SpikeSlabPrior& prior, const torch::Tensor& mean, const torch::Tensor& scale,
                                 const torch::Tensor& inclusion_probability);
/// H[q] of the same q, with respect to Lebesgue measure and the atom: that of the inclusions, and of the Gaussians in
/// proportion to these.
torch::Tensor spike_slab_entropy_nats(const torch::Tensor& scale, const torch::Tensor& inclusion_probability);

}  // namespace credence
