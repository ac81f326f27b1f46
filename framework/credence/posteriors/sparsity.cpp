#include "credence/posteriors/sparsity.h"

#include <algorithm>
#include <functional>

#include "credence/base/errors.h"

namespace credence {
namespace {

constexpr double kLogAlphaLimit = 3.0;
constexpr double kNever = -1e4;  // as an inclusion logit
// The raw scale of 1e-15. Of no weight in a float32 sum, and yet so large that draws, and their products with inputs
// and with each other, are normal numbers: with denormal ones the matrix products of some processors take 300 times as
// long.
constexpr double kNoScale = -34.538776394910684;

int inclusion_logit_of(const PosteriorPlan& plan, int slot) {
  const auto& slots = plan.layout.slots;
  const auto found = std::find_if(slots.begin() + plan.network_slots, slots.end(), [&](const Slot& s) {
    return s.name == slots[static_cast<std::size_t>(slot)].name && s.array == "inclusion_logit";
  });
  ensure(found != slots.end(), "a spike-slab tensor without inclusion probabilities");
  return static_cast<int>(found - slots.begin());
}

/// `visit` sees every slot that can be pruned with the mask of its pruned weights.
Sparsity visit_pruned(const Posterior& posterior,
                      const std::function<void(int slot, const torch::Tensor& mask)>& visit) {
  const torch::NoGradGuard no_grad;
  const PosteriorPlan& plan = posterior.plan();
  const torch::Tensor scales = posterior.scales();
  Sparsity sparsity;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const Family::Kind kind = plan.families[static_cast<std::size_t>(slot)].kind;
    torch::Tensor mask;
    if (kind == Family::Kind::sparse) {
      const torch::Tensor mean = posterior.view(posterior.mean(), slot).to(torch::kFloat64);
      const torch::Tensor scale = posterior.view(scales, slot).to(torch::kFloat64);
      mask = (2.0 * (scale.log() - mean.abs().log())).gt(kLogAlphaLimit).logical_or(mean.eq(0.0));
    } else if (kind == Family::Kind::spike_slab) {
      mask = posterior.view(posterior.mean(), inclusion_logit_of(plan, slot)).lt(0.0);
    } else {
      continue;
    }
    const Slot& place = plan.layout.slots[static_cast<std::size_t>(slot)];
    sparsity.tensors.push_back({slot, place.count, mask.sum().item<std::int64_t>(), place.shape.size() >= 2});
    visit(slot, mask);
  }
  return sparsity;
}

}  // namespace

double Sparsity::share() const {
  double weights = 0.0;
  double pruned = 0.0;
  for (const Tensor& tensor : tensors) {
    weights += static_cast<double>(tensor.weights);
    pruned += static_cast<double>(tensor.pruned);
  }
  return weights > 0.0 ? pruned / weights : 0.0;
}

double Sparsity::compression() const {
  double weights = 0.0;
  double left = 0.0;
  for (const Tensor& tensor : tensors) {
    if (!tensor.is_matrix) continue;
    weights += static_cast<double>(tensor.weights);
    left += static_cast<double>(tensor.weights - tensor.pruned);
  }
  return weights / std::max(left, 1.0);
}

Sparsity measure_sparsity(const Posterior& posterior) {
  return visit_pruned(posterior, [](int, const torch::Tensor&) {});
}

Sparsity prune(Posterior& posterior) {
  const PosteriorPlan& plan = posterior.plan();
  const Sparsity sparsity = visit_pruned(posterior, [&](int slot, const torch::Tensor& mask) {
    posterior.view(posterior.mean(), slot).masked_fill_(mask, 0.0);
    posterior.view(posterior.raw_scale(), slot).masked_fill_(mask, kNoScale);
    if (plan.families[static_cast<std::size_t>(slot)].kind != Family::Kind::spike_slab) return;
    posterior.view(posterior.mean(), inclusion_logit_of(plan, slot)).masked_fill_(mask, kNever);
  });
  posterior.set_drawn(std::nullopt);
  return sparsity;
}

}  // namespace credence
