#include "credence/priors/density.h"

#include "credence/base/errors.h"

namespace credence {

PriorTreatment treatment(const Prior& prior) {
  if (std::holds_alternative<NormalPrior>(prior) || std::holds_alternative<FanInPrior>(prior) ||
      std::holds_alternative<NoPrior>(prior)) {
    return PriorTreatment::kernels;
  }
  const bool drawn = std::holds_alternative<LogisticPrior>(prior) || std::holds_alternative<StudentTPrior>(prior) ||
                     std::holds_alternative<ScaleMixturePrior>(prior) || std::holds_alternative<HorseshoePrior>(prior);
  return drawn ? PriorTreatment::monte_carlo : PriorTreatment::closed_form;
}

std::vector<PriorArray> prior_arrays(const Prior& prior, const Slot&) {
  if (!std::holds_alternative<HierarchicalPrior>(prior)) return {};
  return {{"prior_location", {1}, 0.0}, {"prior_raw_scale", {1}, 0.0}};
}

void require_fit(const Prior&, const Slot&) {
  throw InternalError("require_fit is not there yet");
}

torch::Tensor cross_entropy_nats(const Prior&, const Slot&, const torch::Tensor&, const torch::Tensor&,
                                 const std::vector<torch::Tensor>&) {
  throw InternalError("closed-form priors are not there yet");
}

torch::Tensor negative_log_density_nats(const Prior&, const Slot&, const torch::Tensor&) {
  throw InternalError("log densities of priors are not there yet");
}

torch::Tensor spike_slab_kl_nats(const SpikeSlabPrior&, const torch::Tensor&, const torch::Tensor&,
                                 const torch::Tensor&) {
  throw InternalError("the KL of spike-slab is not there yet");
}

}  // namespace credence
