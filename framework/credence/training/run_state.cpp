#include "credence/training/run_state.h"

#include <fmt/ranges.h>

#include <cmath>
#include <variant>

#include "credence/base/errors.h"
#include "credence/estimators/objective.h"
#include "credence/networks/torchscript.h"
#include "credence/posteriors/sparsity.h"
#include "credence/training/run_arrays.h"

namespace credence {
namespace {

template <class T>
std::string join_numbers(const std::vector<T>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ","));
}

using AttributesOfTensor = std::map<std::string, Attribute>;

/// The scale of a prior that learns it.
void describe_learned_scales(const Posterior& posterior, std::map<std::string, AttributesOfTensor>& tensors) {
  const PosteriorPlan& plan = posterior.plan();
  const torch::NoGradGuard no_grad;
  PosteriorLeaves leaves(posterior);
  for (const PriorTerm& term : plan.terms) {
    auto& attributes = tensors["posterior/" + plan.layout.slots[static_cast<std::size_t>(term.slot)].name];
    if (std::holds_alternative<EmpiricalPrior>(term.prior)) {
      const auto mean_square = [](const torch::Tensor& values) {
        return values.to(torch::kFloat64).square().mean().item<double>();
      };
      const Structure* const structure = posterior.structure_of(term.slot);
      const torch::Tensor scale =
          structure != nullptr ? structure->marginal_scale(leaves, term.slot) : leaves.scale(term.slot);
      attributes["prior_scale"] = std::sqrt(mean_square(leaves.mean(term.slot)) + mean_square(scale));
    }
    if (std::holds_alternative<HierarchicalPrior>(term.prior) && !term.monte_carlo) {
      const auto number = [&](int slot) { return posterior.view(posterior.mean(), slot).item<double>(); };
      const double variance = std::pow(std::log1p(std::exp(number(term.arrays[1]))), 2);  // of log s
      const double mean = std::exp(number(term.arrays[0]) + variance / 2.0);
      attributes["prior_scale_mean"] = mean;
      attributes["prior_scale_deviation"] = mean * std::sqrt(std::expm1(variance));
    }
  }
}

void describe_tensors(const RunState& state, CheckpointContents& contents) {
  const PosteriorPlan& plan = state.posterior.plan();
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    auto& attributes = contents.array_attributes["posterior/" + plan.layout.slots[i].name];
    attributes["family"] = describe(plan.families[i]);
    attributes["prior"] = describe(plan.priors[i]);
    attributes["prior_mean"] = plan.segments[i].prior_mean;
    if (const double scale = plan.segments[i].prior_scale; std::isfinite(scale)) attributes["prior_scale"] = scale;
  }
  describe_learned_scales(state.posterior, contents.array_attributes);
  const Sparsity sparsity = measure_sparsity(state.posterior);
  for (const Sparsity::Tensor& tensor : sparsity.tensors) {
    const auto index = static_cast<std::size_t>(tensor.slot);
    contents.array_attributes["posterior/" + plan.layout.slots[index].name]["pruned"] = tensor.pruned;
  }
  if (!sparsity.tensors.empty()) {
    contents.attributes["sparsity"] = sparsity.share();
    contents.attributes["compression"] = sparsity.compression();
  }
  if (!monte_carlo_slots(plan).empty()) return;  // their KL is known by draws of a step only: see the history
  const ObjectiveValue value = evaluate_objective({}, {}, 0.0, plan, measure_complexity(state.posterior, {}));
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    if (std::isnan(value.kl_of[i])) continue;
    contents.array_attributes["posterior/" + plan.layout.slots[i].name]["kl"] = value.kl_of[i];
  }
  if (!std::isnan(value.kl)) contents.attributes["kl"] = value.kl;
}

}  // namespace

Snapshot take_snapshot(const RunState& state, const RunIdentity& identity) {
  Snapshot snapshot;
  CheckpointContents& contents = snapshot.contents;
  contents.config = identity.config;
  contents.attributes = {{"step", state.step},
                         {"epoch", state.epoch},
                         {"seed", static_cast<std::int64_t>(identity.seed)},
                         {"shards", std::int64_t{identity.shards}},
                         {"world_size", std::int64_t{identity.world_size}},
                         {"threads", std::int64_t{identity.threads}},
                         {"dataset_size", identity.dataset_size},
                         {"dataset_digest", identity.dataset_digest},
                         {"bound", identity.bound},
                         {"input_shape", join_numbers(identity.examples.input_shape)},
                         {"classes", identity.examples.classes},
                         {"target_size", identity.examples.target_size},
                         {"class_names", fmt::format("{}", fmt::join(identity.examples.class_names, "\n"))},
                         {"feature_names", fmt::format("{}", fmt::join(identity.examples.feature_names, "\n"))},
                         {"normalization_mean", join_numbers(identity.examples.normalization.mean)},
                         {"normalization_deviation", join_numbers(identity.examples.normalization.deviation)},
                         {"finished", std::int64_t{state.finished ? 1 : 0}}};
  if (const std::string digest = script_digest(state.network.module()); !digest.empty()) {
    contents.attributes["network_digest"] = digest;
  }
  if (state.posterior.kept().defined()) contents.attributes["collected"] = state.posterior.collected();
  for (const auto& [name, number] : state.numbers) contents.attributes[name] = number;
  describe_tensors(state, contents);

  std::map<const void*, torch::Tensor> host_copies;  // one per arena, not one per tensor
  const auto on_host = [&](const torch::Tensor& arena) -> const torch::Tensor& {
    auto [entry, added] = host_copies.try_emplace(arena.data_ptr());
    if (added) {
      entry->second = arena.cpu();
      snapshot.owned.push_back(entry->second);
    }
    return entry->second;
  };
  for (const ArenaPart& part : arena_parts(state.posterior, &state.optimizer)) {
    contents.arrays.push_back(view_of(part.name, on_host(part.arena), part.slot->shape, part.slot->offset));
  }
  if (state.posterior.has_gaussian()) {
    const torch::Tensor scales = state.posterior.scales().cpu();
    snapshot.owned.push_back(scales);
    const auto& slots = state.posterior.layout().slots;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (!state.posterior.segments()[i].gaussian) continue;
      contents.arrays.push_back(
          view_of("posterior/" + slots[i].name + "/scale", scales, slots[i].shape, slots[i].offset));
    }
  }
  for (const PriorTensor& tensor : prior_tensors(state.posterior.plan())) {
    snapshot.owned.push_back(tensor.values.cpu().contiguous());
    contents.arrays.push_back(view_of(tensor.path, snapshot.owned.back(), tensor.values.sizes().vec(), 0));
  }
  const auto add_buffer = [&](const std::string& name, const torch::Tensor& buffer) {
    const torch::Tensor host = stored_tensor(buffer);
    snapshot.owned.push_back(host);
    contents.arrays.push_back(view_of("buffers/" + name, host, host.sizes().vec(), 0));
  };
  for (const auto& [name, buffer] : state.network.float_buffers()) add_buffer(name, buffer);
  for (const auto& [name, buffer] : state.network.integer_buffers()) add_buffer(name, buffer);
  for (const History::Column& column : state.history.columns()) {
    contents.arrays.push_back({column.path,
                               DType::float64,
                               {static_cast<std::int64_t>(column.values.size())},
                               const_cast<double*>(column.values.data())});
  }
  return snapshot;
}

}  // namespace credence
