#include "credence/priors/density.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/overloaded.h"
#include "credence/priors/scale_marginal.h"

namespace credence {
namespace {

using torch::Tensor;

const double kLogTwoPi = std::log(2.0 * std::numbers::pi);

Tensor wide(const Tensor& tensor) {
  return tensor.to(torch::kDouble);
}

/// -log N(w; 0, scale^2) of each weight; of E[w^2] under a q, its expectation.
Tensor normal_nats(const Tensor& squares, double scale) {
  return squares / (2.0 * scale * scale) + (0.5 * kLogTwoPi + std::log(scale));
}

const InformedTensor& informed_tensor(const InformedPrior& prior, const Slot& slot) {
  const auto found = prior.tensors->find(slot.name);
  require(found != prior.tensors->end(),
          "the prior {} holds no tensor {}; give that tensor a prior of its own with --prior '{}=normal:1'",
          prior.source, slot.name, slot.name);
  return found->second;
}

/// The same with means and scales of its own for each weight; `variance` that of a q, 0 for a weight itself.
Tensor informed_nats(const InformedPrior& prior, const Slot& slot, const Tensor& mean, const Tensor& variance) {
  const InformedTensor& tensor = informed_tensor(prior, slot);
  const Tensor scale = tensor.scale.to(mean.options()) * prior.inflate;
  const Tensor deviation = mean - tensor.mean.to(mean.options());
  return (deviation.square() + variance) / (2.0 * scale.square()) + torch::log(scale) + 0.5 * kLogTwoPi;
}

Tensor laplace_cross_entropy(const LaplacePrior& prior, const Tensor& mean, const Tensor& scale) {
  const Tensor standardized = mean / (std::numbers::sqrt2 * scale);
  const Tensor absolute =
      scale * std::sqrt(2.0 / std::numbers::pi) * torch::exp(-standardized.square()) + mean * torch::erf(standardized);
  return absolute / prior.scale + std::log(2.0 * prior.scale);
}

Tensor log_uniform_cross_entropy(const Tensor& mean, const Tensor& scale) {
  // 1 / alpha of the paper. Their sigmoid is 0 in double long before the clamp matters, and so is its gradient.
  const Tensor inverse_alpha = (mean / scale).square();
  const Tensor log_alpha = -torch::log(inverse_alpha.clamp_min(1e-200));
  const Tensor kl = 0.63576 * torch::sigmoid(-(1.87320 + 1.48695 * log_alpha)) + 0.5 * torch::log1p(inverse_alpha);
  return kl + torch::log(scale) + 0.5 * (kLogTwoPi + 1.0);
}

Tensor hierarchical_cross_entropy(const HierarchicalPrior& prior, const Tensor& squares, const Tensor& location,
                                  const Tensor& raw_scale) {
  const double count = static_cast<double>(squares.numel());
  const double a = prior.hyper_scale;
  const Tensor deviation = torch::softplus(raw_scale);
  const Tensor variance = deviation.square();
  const Tensor weights =
      count * (0.5 * kLogTwoPi + location) + 0.5 * squares.sum() * torch::exp(2.0 * (variance - location));
  const Tensor hyperprior =
      std::log(a) - 0.5 * std::log(2.0 / std::numbers::pi) + torch::exp(2.0 * (location + variance)) / (2.0 * a * a);
  return (weights + hyperprior).sum();
}

/// -log(p_w + p_n) = -log p_w - softplus(log p_n - log p_w) with p_w the wider part, whose -log is the smaller far out:
/// nothing cancels.
Tensor scale_mixture_nats(const ScaleMixturePrior& prior, const Tensor& weights) {
  const bool first_is_wider = prior.first_scale >= prior.second_scale;
  const double wider = std::max(prior.first_scale, prior.second_scale);
  const double narrower = std::min(prior.first_scale, prior.second_scale);
  const double odds = (1.0 - prior.probability) / prior.probability;  // of the second part
  const Tensor squares = weights.square();
  const Tensor ratio = squares * (0.5 / (wider * wider) - 0.5 / (narrower * narrower)) +
                       std::log((first_is_wider ? odds : 1.0 / odds) * wider / narrower);
  return normal_nats(squares, wider) - std::log(first_is_wider ? prior.probability : 1.0 - prior.probability) -
         torch::softplus(ratio, 1.0, /*threshold=*/40.0);
}

Tensor student_t_nats(const StudentTPrior& prior, const Tensor& weights) {
  const double v = prior.degrees;
  const double normalizer = std::lgamma(0.5 * v) - std::lgamma(0.5 * (v + 1.0)) + 0.5 * std::log(v * std::numbers::pi) +
                            std::log(prior.scale);
  return 0.5 * (v + 1.0) * torch::log1p((weights / prior.scale).square() / v) + normalizer;
}

Tensor logistic_nats(const LogisticPrior& prior, const Tensor& weights) {
  const Tensor distance = weights.abs() / prior.scale;
  return distance + 2.0 * torch::log1p(torch::exp(-distance)) + std::log(prior.scale);
}

Tensor horseshoe(const HorseshoePrior& prior, const Tensor& weights) {
  if (!prior.per_unit || weights.dim() < 2) return horseshoe_nats(weights, prior.scale);
  const Tensor rows = weights.flatten(1);
  return group_scale_nats(ScaleDensity::half_cauchy, prior.scale, rows.size(1), rows.square().sum(1));
}

[[noreturn]] void refuse_density(const Prior& prior, const char* why) {
  throw UserError(
      fmt::format("the prior {} {}, so it cannot be evaluated at a weight; use it with a posterior that has "
                  "a scale, or another prior",
                  describe(prior), why));
}

[[noreturn]] Tensor refuse_unread(const std::string& file) {
  throw InternalError(fmt::format("the prior of {} was not read", file));
}

}  // namespace

PriorTreatment treatment(const Prior& prior) {
  if (std::holds_alternative<NormalPrior>(prior) || std::holds_alternative<FanInPrior>(prior) ||
      std::holds_alternative<NoPrior>(prior)) {
    return PriorTreatment::kernels;
  }
  const bool drawn = std::holds_alternative<LogisticPrior>(prior) || std::holds_alternative<StudentTPrior>(prior) ||
                     std::holds_alternative<ScaleMixturePrior>(prior) || std::holds_alternative<HorseshoePrior>(prior);
  return drawn ? PriorTreatment::monte_carlo : PriorTreatment::closed_form;
}

std::vector<PriorArray> prior_arrays(const Prior& prior, const Slot& slot) {
  const auto* hierarchical = std::get_if<HierarchicalPrior>(&prior);
  if (hierarchical == nullptr) return {};
  // The deviation that is best for a tensor of that many weights, whatever its location.
  const double deviation = 1.0 / std::sqrt(2.0 * static_cast<double>(slot.count));
  return {{"prior_location", {1}, std::log(std::min(prior_scale(FanInPrior{}, slot), hierarchical->hyper_scale))},
          {"prior_raw_scale", {1}, kernels::inverse_softplus(deviation)}};
}

void require_fit(const Prior& prior, const Slot& slot) {
  const auto* informed = std::get_if<InformedPrior>(&prior);
  if (informed == nullptr) return;
  const InformedTensor& tensor = informed_tensor(*informed, slot);
  const auto require_shape = [&](const Tensor& values, const char* what) {
    require(values.sizes() == torch::IntArrayRef(slot.shape),
            "the prior {} holds {} of {} with shape {}, the network "
            "needs {}; use the network that it was trained for, or give that tensor a prior of its own",
            informed->source, what, slot.name, fmt::format("[{}]", fmt::join(values.sizes(), ", ")),
            fmt::format("[{}]", fmt::join(slot.shape, ", ")));
    require(values.isfinite().all().item<bool>(), "the prior {} holds {} of {} that are not finite", informed->source,
            what, slot.name);
  };
  require_shape(tensor.mean, "means");
  require_shape(tensor.scale, "scales");
  require(
      (tensor.scale > 0.0).all().item<bool>(),
      "the prior {} holds scales of {} that are not positive: a point estimate is no prior; give that tensor a prior "
      "of its own with --prior '{}=normal:1'",
      informed->source, slot.name, slot.name);
}

Tensor cross_entropy_nats(const Prior& prior, const Slot& slot, const Tensor& mean, const Tensor& scale,
                          const std::vector<Tensor>& arrays) {
  const Tensor m = wide(mean), s = wide(scale);
  const auto squares = [&] { return m.square() + s.square(); };
  const auto normal = [&](double prior_scale) { return normal_nats(squares(), prior_scale).sum(); };
  const auto drawn = [&]() -> Tensor {
    throw InternalError(fmt::format("the prior {} has no closed form under a Gaussian", describe(prior)));
  };
  return std::visit(
      Overloaded{
          [&](const NormalPrior& p) { return normal(p.scale); },
          [&](const FanInPrior& p) { return normal(prior_scale(p, slot)); },
          [&](const NoPrior&) { return torch::zeros({}, m.options()); },
          [&](const LaplacePrior& p) { return laplace_cross_entropy(p, m, s).sum(); },
          [&](const LogisticPrior&) { return drawn(); },
          [&](const StudentTPrior&) { return drawn(); },
          [&](const ScaleMixturePrior&) { return drawn(); },
          [&](const SpikeSlabPrior& p) { return (normal_nats(squares(), p.scale) - std::log(p.probability)).sum(); },
          [&](const HorseshoePrior&) { return drawn(); },
          [&](const LogUniformPrior&) { return log_uniform_cross_entropy(m, s).sum(); },
          [&](const HierarchicalPrior& p) {
            ensure(arrays.size() == 2, "a hierarchical prior has two arrays");
            return hierarchical_cross_entropy(p, squares(), wide(arrays[0]), wide(arrays[1]));
          },
          [&](const EmpiricalPrior&) {
            return 0.5 * static_cast<double>(m.numel()) * (torch::log(squares().mean()) + (kLogTwoPi + 1.0));
          },
          [&](const InformedPrior& p) { return informed_nats(p, slot, m, s.square()).sum(); },
          [&](const CheckpointPrior& p) { return refuse_unread(p.file); },
          [&](const WeightsPrior& p) { return refuse_unread(p.file); },
      },
      prior);
}

Tensor prior_entropy_nats(const Prior& prior, const std::vector<Tensor>& arrays) {
  if (!std::holds_alternative<HierarchicalPrior>(prior)) return {};
  ensure(arrays.size() == 2, "a hierarchical prior has two arrays");
  const Tensor deviation = torch::softplus(wide(arrays[1]));
  return (wide(arrays[0]) + torch::log(deviation) + 0.5 * (kLogTwoPi + 1.0)).sum();
}

Tensor negative_log_density_nats(const Prior& prior, const Slot& slot, const Tensor& weights) {
  const Tensor w = wide(weights);
  return std::visit(
      Overloaded{
          [&](const NormalPrior& p) { return normal_nats(w.square(), p.scale).sum(); },
          [&](const FanInPrior& p) { return normal_nats(w.square(), prior_scale(p, slot)).sum(); },
          [&](const NoPrior&) { return torch::zeros({}, w.options()); },
          [&](const LaplacePrior& p) { return (w.abs() / p.scale + std::log(2.0 * p.scale)).sum(); },
          [&](const LogisticPrior& p) { return logistic_nats(p, w).sum(); },
          [&](const StudentTPrior& p) { return student_t_nats(p, w).sum(); },
          [&](const ScaleMixturePrior& p) { return scale_mixture_nats(p, w).sum(); },
          [&](const SpikeSlabPrior&) -> Tensor { refuse_density(prior, "has an atom at 0"); },
          [&](const HorseshoePrior& p) { return horseshoe(p, w).sum(); },
          [&](const LogUniformPrior&) -> Tensor { refuse_density(prior, "is improper"); },
          [&](const HierarchicalPrior& p) {
            return group_scale_nats(ScaleDensity::half_normal, p.hyper_scale, w.numel(), w.square().sum());
          },
          [&](const EmpiricalPrior&) -> Tensor { refuse_density(prior, "takes its scale from the posterior"); },
          [&](const InformedPrior& p) { return informed_nats(p, slot, w, torch::zeros({}, w.options())).sum(); },
          [&](const CheckpointPrior& p) { return refuse_unread(p.file); },
          [&](const WeightsPrior& p) { return refuse_unread(p.file); },
      },
      prior);
}

Tensor spike_slab_kl_nats(const SpikeSlabPrior& prior, const Tensor& mean, const Tensor& scale,
                          const Tensor& inclusion_probability) {
  const Tensor m = wide(mean), s = wide(scale);
  const Tensor inclusion = wide(inclusion_probability).clamp(0x1p-50, 1.0 - 0x1p-50);
  const Tensor slab = (m.square() + s.square()) / (2.0 * prior.scale * prior.scale) - torch::log(s / prior.scale) - 0.5;
  const Tensor included = inclusion * (torch::log(inclusion / prior.probability) + slab);
  const Tensor excluded = (1.0 - inclusion) * (torch::log1p(-inclusion) - std::log1p(-prior.probability));
  return (included + excluded).sum();
}

Tensor spike_slab_entropy_nats(const Tensor& scale, const Tensor& inclusion_probability) {
  const Tensor inclusion = wide(inclusion_probability).clamp(0x1p-50, 1.0 - 0x1p-50);
  const Tensor slab = torch::log(wide(scale)) + 0.5 * (kLogTwoPi + 1.0);
  return (inclusion * (slab - torch::log(inclusion)) - (1.0 - inclusion) * torch::log1p(-inclusion)).sum();
}

}  // namespace credence
