#include "credence/training/run_state.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <set>
#include <string_view>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/estimators/objective.h"
#include "credence/networks/torchscript.h"
#include "credence/posteriors/sparsity.h"

namespace credence {
namespace {

DType dtype_of_tensor(const torch::Tensor& tensor) {
  if (tensor.scalar_type() == torch::kFloat64) return DType::float64;
  if (tensor.scalar_type() == torch::kInt64) return DType::int64;
  ensure(tensor.scalar_type() == torch::kFloat32, "a checkpoint holds float32, float64 and int64 only");
  return DType::float32;
}

/// One named part of an arena.
struct ArenaPart {
  std::string name;
  torch::Tensor arena;
  const Slot* slot;
};

/// Every part of the posterior's and the optimizer's arenas, as stored: raw values, not the derived scale.
std::vector<ArenaPart> arena_parts(const Posterior& posterior, const Optimizer* optimizer) {
  std::vector<ArenaPart> parts;
  const auto& slots = posterior.layout().slots;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const bool gaussian = posterior.segments()[i].gaussian;
    const std::string& array = slots[i].array;
    parts.push_back(
        {"posterior/" + slots[i].name + "/" + (array.empty() ? "mean" : array), posterior.mean(), &slots[i]});
    if (gaussian) parts.push_back({"posterior/" + slots[i].name + "/raw_scale", posterior.raw_scale(), &slots[i]});
    if (optimizer == nullptr) continue;
    const std::string tensor = slots[i].name + (array.empty() ? "" : ":" + array);
    for (const auto& [name, arena] : optimizer->state()) {
      if (gaussian || !name.starts_with("scale_")) {
        parts.push_back({"optimizer/" + name + "/" + tensor, arena, &slots[i]});
      }
    }
  }
  for (const Slot& slot : posterior.plan().kept.slots) {
    parts.push_back({"posterior/" + slot.name + "/" + slot.array, posterior.kept(), &slot});
  }
  return parts;
}

ArrayView view_of(const std::string& name, const torch::Tensor& host, const std::vector<std::int64_t>& shape,
                  std::int64_t offset) {
  auto* data = static_cast<std::byte*>(host.data_ptr()) + static_cast<std::size_t>(offset) * host.element_size();
  return {name, dtype_of_tensor(host), shape, data};
}

void fill_arena_part(const Checkpoint& checkpoint, const ArenaPart& part) {
  require(checkpoint.contains(part.name), "{} holds no {}: it was made with another network, posterior or optimizer",
          checkpoint.file().string(), part.name);
  torch::Tensor host = torch::empty(part.slot->shape, part.arena.options().device(torch::kCPU));
  const ArrayView target = view_of(part.name, host, part.slot->shape, 0);
  for (const ArrayView& stored : checkpoint.arrays()) {
    if (stored.name == part.name) {
      require(stored.shape == target.shape && stored.dtype == target.dtype,
              "{} in {} has another shape or type than the network: it was made with another network or precision",
              part.name, checkpoint.file().string());
    }
  }
  checkpoint.read(target);
  torch::Tensor arena = part.arena;
  arena.narrow(0, part.slot->offset, part.slot->count).copy_(host.flatten());
}

void restore_collected(const Checkpoint& checkpoint, Posterior& posterior) {
  if (posterior.kept().defined()) posterior.set_collected(checkpoint.integer("collected"));
  posterior.set_drawn(std::nullopt);
}

void restore_buffers(const Checkpoint& checkpoint, Network& network) {
  const auto fill = [&](const std::string& name, torch::Tensor buffer) {
    const std::string path = "buffers/" + name;
    require(checkpoint.contains(path), "{} holds no {}: it was made with another network", checkpoint.file().string(),
            path);
    torch::Tensor host = torch::empty(buffer.sizes(), buffer.options().device(torch::kCPU));
    checkpoint.read(view_of(path, host, buffer.sizes().vec(), 0));
    buffer.copy_(host);
  };
  for (const auto& [name, buffer] : network.float_buffers()) fill(name, buffer);
  for (const auto& [name, buffer] : network.integer_buffers()) fill(name, buffer);
}

/// UserError where the network is a file of other content than the one that was trained.
void require_same_script(const Checkpoint& checkpoint, Network& network) {
  const auto recorded = checkpoint.attributes().find("network_digest");
  if (recorded == checkpoint.attributes().end()) return;
  const auto* const digest = std::get_if<std::string>(&recorded->second);
  require(digest != nullptr && *digest == script_digest(network.module()),
          "{} is of a network from a file of other content than that of its --network now; put back the one that was "
          "trained",
          checkpoint.file().string());
}

/// UserError where the file holds more than was asked of it: tensors of a deeper network or of another posterior.
void refuse_other_tensors(const Checkpoint& checkpoint, const std::vector<ArenaPart>& parts,
                          std::initializer_list<std::string_view> folders) {
  std::set<std::string> known;
  for (const ArenaPart& part : parts) {
    known.insert(part.name);
    if (part.name.ends_with("/raw_scale")) known.insert("posterior/" + part.slot->name + "/scale");
  }
  for (const ArrayView& stored : checkpoint.arrays()) {
    const bool read = std::any_of(folders.begin(), folders.end(),
                                  [&](std::string_view folder) { return stored.name.starts_with(folder); });
    if (!read) continue;
    require(known.contains(stored.name),
            "{} holds {}, which has no place here: it was made with another network, "
            "posterior or optimizer",
            checkpoint.file().string(), stored.name);
  }
}

/// What informed priors know of the network's tensors: a checkpoint needs no other file.
struct PriorTensor {
  std::string path;
  torch::Tensor values;
};

std::vector<PriorTensor> prior_tensors(const PosteriorPlan& plan) {
  std::vector<PriorTensor> tensors;
  for (std::size_t i = 0; i < plan.priors.size() / static_cast<std::size_t>(plan.members); ++i) {
    const auto* prior = std::get_if<InformedPrior>(&plan.priors[i]);
    if (prior == nullptr) continue;
    std::string name = plan.layout.slots[i].name;
    const InformedTensor& tensor = prior->tensors->at(name);
    if (plan.members > 1) name = name.substr(name.find('.') + 1);
    tensors.push_back({"prior/" + name + "/mean", tensor.mean});
    tensors.push_back({"prior/" + name + "/scale", tensor.scale});
  }
  return tensors;
}

template <class T>
std::string join_numbers(const std::vector<T>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ","));
}

std::vector<double> split_numbers(const std::string& text) {
  std::vector<double> numbers;
  for (const std::string& part : split(text, ',')) numbers.push_back(parse_number(part, "a recorded number"));
  return numbers;
}

std::string text_attribute(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.attributes().find(name);
  if (found == checkpoint.attributes().end() || !std::holds_alternative<std::string>(found->second)) {
    throw DataError(fmt::format("{} lacks the attribute {}", checkpoint.file().string(), name));
  }
  return std::get<std::string>(found->second);
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
    const torch::Tensor host = buffer.cpu().contiguous();
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

ExampleSpec examples_of(const Checkpoint& checkpoint) {
  ExampleSpec examples;
  for (const double size : split_numbers(text_attribute(checkpoint, "input_shape"))) {
    examples.input_shape.push_back(static_cast<std::int64_t>(size));
  }
  examples.classes = checkpoint.integer("classes");
  examples.target_size = checkpoint.integer("target_size");
  examples.class_names = split(text_attribute(checkpoint, "class_names"), '\n');
  if (checkpoint.attributes().contains("feature_names"))
    examples.feature_names = split(text_attribute(checkpoint, "feature_names"), '\n');
  examples.normalization = {split_numbers(text_attribute(checkpoint, "normalization_mean")),
                            split_numbers(text_attribute(checkpoint, "normalization_deviation"))};
  return examples;
}

void broadcast_state(RunState& state, Communicator& communicator) {
  if (communicator.size() == 1) return;
  const torch::NoGradGuard no_grad;
  const auto send = [&](const torch::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return;
    torch::Tensor host = tensor.cpu().contiguous();
    communicator.broadcast({host.data_ptr(), host.numel(), dtype_of_tensor(host), Device::cpu}, 0).wait();
    torch::Tensor target = tensor;
    if (target.data_ptr() != host.data_ptr()) target.copy_(host);
  };
  send(state.posterior.mean());
  send(state.posterior.raw_scale());
  send(state.posterior.kept());
  for (const auto& [name, arena] : state.optimizer.state()) send(arena);
  for (const PriorTensor& tensor : prior_tensors(state.posterior.plan())) send(tensor.values);
  send(state.network.buffer_arena());
  for (const auto& [name, buffer] : state.network.integer_buffers()) send(buffer);

  std::int64_t counts[] = {state.step, state.history.size(), state.posterior.collected()};
  communicator.broadcast({counts, 3, DType::int64, Device::cpu}, 0).wait();
  for (History::Column& column : state.history.columns()) {
    column.values.resize(static_cast<std::size_t>(counts[1]));
    if (counts[1] == 0) continue;
    communicator.broadcast({column.values.data(), counts[1], DType::float64, Device::cpu}, 0).wait();
  }
  state.step = counts[0];
  state.posterior.set_collected(counts[2]);
  state.epoch = counts[1] > 0 ? state.history.column("history/epoch").back() : 0.0;
  state.posterior.set_drawn(std::nullopt);
}

void restore_posterior(const Checkpoint& checkpoint, Network& network, Posterior& posterior) {
  require_same_script(checkpoint, network);
  const torch::NoGradGuard no_grad;
  const std::vector<ArenaPart> parts = arena_parts(posterior, nullptr);
  for (const ArenaPart& part : parts) fill_arena_part(checkpoint, part);
  refuse_other_tensors(checkpoint, parts, {"posterior/"});
  restore_collected(checkpoint, posterior);
  restore_buffers(checkpoint, network);
}

void restore(const Checkpoint& checkpoint, const RunIdentity& identity, RunState& state) {
  const std::string file = checkpoint.file().string();
  const std::int64_t size = checkpoint.integer("dataset_size");
  require(size == identity.dataset_size,
          "{} was trained on {} examples, and these data have {}; where images were left out as bad, give the "
          "--max-bad-records of then",
          file, size, identity.dataset_size);
  require(text_attribute(checkpoint, "dataset_digest") == identity.dataset_digest,
          "{} was trained on data of other content than these", file);
  require_same_script(checkpoint, state.network);
  const torch::NoGradGuard no_grad;
  const std::vector<ArenaPart> parts = arena_parts(state.posterior, &state.optimizer);
  for (const ArenaPart& part : parts) fill_arena_part(checkpoint, part);
  refuse_other_tensors(checkpoint, parts, {"posterior/", "optimizer/"});
  restore_collected(checkpoint, state.posterior);
  restore_buffers(checkpoint, state.network);
  for (History::Column& column : state.history.columns()) {
    column.values = checkpoint.read_doubles(column.path);
  }
  state.step = checkpoint.integer("step");
  state.epoch = state.history.size() > 0 ? state.history.column("history/epoch").back() : 0.0;
}

}  // namespace credence
