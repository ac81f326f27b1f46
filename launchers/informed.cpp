#include "informed.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <regex>
#include <set>
#include <string_view>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/priors/rules.h"
#include "earlier_posterior.h"
#include "listed.h"
#include "tensor_file.h"

namespace credence {
namespace {

// MOPED's first scales are a share of each weight; a weight near zero has that share of one this far below the others.
constexpr double kLeastShare = 1e-3;

/// Undefined unless it is there in that shape.
torch::Tensor fitting(const torch::Tensor& tensor, at::IntArrayRef shape) {
  return tensor.defined() && tensor.sizes() == shape ? tensor : torch::Tensor();
}

torch::Tensor array_of(const Checkpoint& checkpoint, const std::string& name, at::IntArrayRef shape) {
  if (!checkpoint.contains(name)) return {};
  const std::vector<double> values = checkpoint.read_doubles(name);
  if (static_cast<std::int64_t>(values.size()) != c10::multiply_integers(shape)) return {};
  return torch::tensor(values, torch::kFloat64).view(shape);
}

constexpr std::string_view kSkip = ",skip=";

/// "FILE[,skip=REGEX]".
struct ChosenFile {
  std::string path;
  std::function<bool(const std::string&)> skipped;  // by a tensor's name
};

ChosenFile choose_file(const std::string& text) {
  const auto option = text.find(kSkip);
  if (option == std::string::npos) return {text, [](const std::string&) { return false; }};
  const std::string expression = text.substr(option + kSkip.size());
  return {text.substr(0, option), [empty = expression.empty(), rule = compile_rule(expression)](
                                      const std::string& name) { return !empty && std::regex_search(name, rule); }};
}

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

using Informed = std::map<std::string, InformedTensor>;

/// Where each kind of prior finds the tensors of a slot.
struct Origin {
  std::string spec;
  double inflate = 1.0;
  std::function<InformedTensor(const Slot&)> tensor_of;  // mean undefined: the file has none that fits
  std::shared_ptr<TensorFile> file = {};                 // null: the run's own checkpoint
};

Origin origin_in_run(const std::string& spec, double inflate, const Checkpoint* own) {
  return {spec, inflate, [own](const Slot& slot) {
            if (own == nullptr) {
              const torch::Tensor ones = torch::ones(slot.shape, torch::kFloat64);
              return InformedTensor{ones, ones.clone(), {}};
            }
            return InformedTensor{array_of(*own, "prior/" + slot.name + "/mean", slot.shape),
                                  array_of(*own, "prior/" + slot.name + "/scale", slot.shape),
                                  {}};
          }};
}

Origin origin_in_checkpoint(const CheckpointPrior& prior, const std::string& spec) {
  const std::shared_ptr<TensorFile> file = open_checkpoint_tensors(prior.file);
  return {spec, prior.inflate,
          [file, spec, warned = false](const Slot& slot) mutable {
            const Marginals marginals = marginals_in(*file->checkpoint(), slot.name, slot.shape);
            if (!marginals.left_out.empty() && !warned) {
              log_warning(
                  "--prior {}: that posterior is {}, and the prior takes each weight by itself: its correlations "
                  "are dropped",
                  spec, marginals.left_out);
              warned = true;
            }
            return InformedTensor{marginals.mean, marginals.scale, {}};
          },
          file};
}

/// delta |w|, or the same of a smallest |w| that goes with the tensor.
torch::Tensor first_scale(const torch::Tensor& weights, double delta) {
  const double typical = weights.square().mean().sqrt().item<double>();
  if (typical == 0.0) return {};
  return delta * weights.abs().clamp_min(kLeastShare * typical);
}

Origin origin_in_weights(const WeightsPrior& prior, const std::string& spec) {
  const ChosenFile chosen = choose_file(prior.file);
  const std::shared_ptr<TensorFile> file = open_state_dict_tensors(chosen.path);
  return {spec, 1.0,
          [file, prior, skipped = chosen.skipped](const Slot& slot) {
            if (skipped(slot.name)) return InformedTensor{};
            const torch::Tensor mean = fitting(file->mean(slot.name), slot.shape);
            if (!mean.defined()) return InformedTensor{};
            return InformedTensor{mean, torch::full_like(mean, prior.scale),
                                  prior.delta > 0.0 ? first_scale(mean, prior.delta) : torch::Tensor()};
          },
          file};
}

bool needs_file(const Prior& prior) {
  return std::holds_alternative<CheckpointPrior>(prior) || std::holds_alternative<WeightsPrior>(prior);
}

Origin origin_of(const Prior& prior, const ModelOrigin& origin) {
  const std::string spec = describe(prior);
  const auto* checkpoint = std::get_if<CheckpointPrior>(&prior);
  if (origin.restored) {
    return origin_in_run(spec, checkpoint != nullptr ? checkpoint->inflate : 1.0, origin.checkpoint);
  }
  return checkpoint != nullptr ? origin_in_checkpoint(*checkpoint, spec)
                               : origin_in_weights(std::get<WeightsPrior>(prior), spec);
}

void set_scale(Posterior& posterior, int slot, const torch::Tensor& scale) {
  torch::Tensor raw = posterior.raw_scale();
  posterior.view(raw, slot).copy_(torch::log(torch::expm1(scale.to(torch::kFloat64))));
}

/// A prior's file has no tensor for a slot that the prior is for.
[[noreturn]] void refuse_slot(const Origin& origin, const Slot& slot) {
  const torch::Tensor stored = origin.file ? origin.file->mean(slot.name) : torch::Tensor();
  const std::string shape = shape_text(slot.shape);
  const std::string finding =
      stored.defined() && stored.sizes() != slot.shape
          ? fmt::format("{} is {} in that file and {} in the network", slot.name, shape_text(stored.sizes()), shape)
          : fmt::format("that file has no distribution over {} {}", slot.name, shape);
  throw DataError(fmt::format("--prior {}: {}; give such tensors a prior of their own, as in --prior '{}=normal:1'",
                              origin.spec, finding, slot.name));
}

/// Names in the file that neither a tensor nor a buffer of the network has.
std::vector<std::string> extra_names(const TensorFile& file, const Network& network,
                                     const std::function<bool(const std::string&)>& skipped) {
  std::set<std::string> known;
  for (const Slot& slot : network.layout().slots) known.insert(slot.name);
  for (const auto& [name, buffer] : network.float_buffers()) known.insert(name);
  for (const auto& [name, buffer] : network.integer_buffers()) known.insert(name);
  std::vector<std::string> extra;
  for (const std::string& name : file.names()) {
    if (!known.contains(name) && !skipped(name)) extra.push_back(name);
  }
  return extra;
}

/// Scales and shifts that no informed prior is for, and running statistics: without them the weights of a network with
/// norm layers would not be what they were. A state dict is to hold nothing that the network does not have.
void start_norms_at(const std::string& source, Network& network, Posterior& posterior) {
  const Prior prior = parse_prior(source);
  const auto* const checkpoint = std::get_if<CheckpointPrior>(&prior);
  const auto [path, skipped] = checkpoint != nullptr ? ChosenFile{checkpoint->file, [](const auto&) { return false; }}
                                                     : choose_file(std::get<WeightsPrior>(prior).file);
  const auto file = open_tensor_file(path);
  if (const auto extra = extra_names(*file, network, skipped); checkpoint == nullptr && !extra.empty()) {
    throw DataError(
        fmt::format("--prior {}: the network has no {}; 'weights:FILE,skip=REGEX' leaves out tensors whose names match",
                    source, listed(extra)));
  }
  const PosteriorPlan& plan = posterior.plan();
  const auto& slots = network.layout().slots;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const Slot& place = slots[index % slots.size()];
    if (!place.is_norm || skipped(place.name) || std::holds_alternative<InformedPrior>(plan.priors[index])) continue;
    const torch::Tensor mean = fitting(file->mean(place.name), place.shape);
    if (mean.defined()) posterior.view(posterior.mean(), slot).copy_(mean);
  }
  for (const auto& [name, buffer] : network.float_buffers()) {
    torch::Tensor target = buffer;
    const torch::Tensor stored = skipped(name) ? torch::Tensor() : fitting(file->buffer(name), buffer.sizes());
    if (stored.defined()) target.copy_(stored);
  }
}

/// Every tensor of the network but the likelihood's is in the file, in its shape, and the file holds no others.
void require_fit(const TensorFile& file, const Network& network,
                 const std::function<bool(const std::string&)>& skipped) {
  std::vector<std::string> missing, misshapen;
  const auto check = [&](const std::string& name, at::IntArrayRef shape, const torch::Tensor& stored, bool needed) {
    if (!stored.defined()) {
      if (needed) missing.push_back(name);
    } else if (stored.sizes() != shape) {
      misshapen.push_back(
          fmt::format("{} is {} and the network's {}", name, shape_text(stored.sizes()), shape_text(shape)));
    }
  };
  for (const Slot& slot : network.layout().slots) {
    if (!skipped(slot.name)) check(slot.name, slot.shape, file.mean(slot.name), !slot.is_likelihood);
  }
  for (const auto& [name, buffer] : network.float_buffers()) {
    if (!skipped(name)) check(name, buffer.sizes(), file.buffer(name), true);
  }
  const std::vector<std::string> extra = extra_names(file, network, skipped);
  if (missing.empty() && misshapen.empty() && extra.empty()) return;
  std::vector<std::string> findings;
  if (!misshapen.empty()) findings.push_back("other shapes: " + listed(misshapen));
  if (!missing.empty()) findings.push_back("it has no " + listed(missing));
  if (!extra.empty()) findings.push_back("the network has no " + listed(extra));
  throw DataError(fmt::format(
      "--init {}: the file does not fit the network ({}); --init 'FILE,skip=REGEX' leaves tensors whose names match "
      "as they are, such as skip=^fc for another number of classes",
      file.file().string(), fmt::join(findings, "; ")));
}

}  // namespace

void inform_priors(TensorRules<Prior>& rules, const TensorRules<Family>& families, const Weights& weights,
                   const ModelOrigin& from) {
  std::vector<Prior*> priors = {&rules.fallback};
  // As plan_posterior() has it: without a rule of their own, norm layers and the like have no prior, and a latent
  // variable of the network has the network's.
  const auto is_left_out = [&](const Prior* rule, const Slot& slot) {
    return rule == nullptr && (!slot.categorical_log_prior.empty() ||
                               (slot.point_by_default() && families.exception_for(slot.name) == nullptr));
  };
  for (auto& [expression, prior] : rules.exceptions) priors.push_back(&prior);
  for (Prior* const prior : priors) {
    if (!needs_file(*prior)) continue;
    const Origin origin = origin_of(*prior, from);
    auto tensors = std::make_shared<Informed>();
    for (const Slot& slot : weights.network.slots) {
      const Prior* const rule = rules.exception_for(slot.name);
      if ((rule != nullptr ? rule : &rules.fallback) != prior || is_left_out(rule, slot)) continue;
      const InformedTensor tensor = origin.tensor_of(slot);
      if (!tensor.mean.defined()) refuse_slot(origin, slot);
      tensors->emplace(slot.name, tensor);
      for (int member = 0; member < weights.members; ++member) {
        tensors->emplace(fmt::format("member-{}.{}", member, slot.name), tensor);
      }
    }
    *prior = InformedPrior{tensors, origin.inflate, origin.spec};
  }
}

std::set<int> start_at_priors(Network& network, Posterior& posterior) {
  std::set<int> given_scales;
  const torch::NoGradGuard no_grad;
  const PosteriorPlan& plan = posterior.plan();
  std::set<std::string> sources;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const auto* prior = std::get_if<InformedPrior>(&plan.priors[index]);
    if (prior == nullptr) continue;
    sources.insert(prior->source);
    const InformedTensor& tensor = prior->tensors->at(plan.layout.slots[index].name);
    posterior.view(posterior.mean(), slot).copy_(tensor.mean);
    if (!plan.segments[index].gaussian) continue;
    set_scale(posterior, slot, tensor.start.defined() ? tensor.start : tensor.scale);
    given_scales.insert(slot);
  }
  for (const std::string& source : sources) start_norms_at(source, network, posterior);
  posterior.set_drawn(std::nullopt);
  return given_scales;
}

std::set<int> start_at_file(const std::string& spec, Network& network, Posterior& posterior) {
  const torch::NoGradGuard no_grad;
  const auto [path, skipped] = choose_file(spec);
  const std::unique_ptr<TensorFile> file = open_tensor_file(path);
  require_fit(*file, network, skipped);
  const PosteriorPlan& plan = posterior.plan();
  const auto& slots = network.layout().slots;
  std::set<int> given_scales;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const std::string& name = slots[index % slots.size()].name;
    const torch::Tensor mean = skipped(name) ? torch::Tensor() : file->mean(name);
    if (!mean.defined()) continue;  // of the likelihood
    posterior.view(posterior.mean(), slot).copy_(mean);
    const torch::Tensor scale = fitting(file->scale(name), mean.sizes());
    if (!plan.segments[index].gaussian || !scale.defined()) continue;
    set_scale(posterior, slot, scale);
    given_scales.insert(slot);
  }
  for (const auto& [name, buffer] : network.float_buffers()) {
    torch::Tensor target = buffer;
    if (!skipped(name)) target.copy_(file->buffer(name));
  }
  log_info("init       {}", spec);
  const std::vector<std::string> left_out = copy_further_arrays(*file, posterior, skipped);
  if (!left_out.empty())
    log_info("init       without {}: no further array of this run has that name and shape", listed(left_out));
  posterior.set_drawn(std::nullopt);
  return given_scales;
}

}  // namespace credence
