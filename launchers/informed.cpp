#include "informed.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <functional>
#include <memory>

#include "assembly.h"
#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/checkpoint/safetensors.h"

namespace credence {
namespace {

/// Tensors of a file by name.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual bool contains(const std::string& name) const = 0;
  virtual torch::Tensor read(const std::string& name) const = 0;  // float64

  /// Undefined where the file does not hold it, or in another shape.
  torch::Tensor find(const std::string& name, const std::vector<std::int64_t>& shape) const {
    if (!contains(name)) return {};
    const torch::Tensor tensor = read(name);
    return tensor.sizes() == shape ? tensor : torch::Tensor();
  }
};

class CheckpointTensors final : public TensorFile {
 public:
  explicit CheckpointTensors(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  bool contains(const std::string& name) const override { return checkpoint_.contains(name); }
  torch::Tensor read(const std::string& name) const override {
    for (const ArrayView& array : checkpoint_.arrays()) {
      if (array.name == name) return torch::tensor(checkpoint_.read_doubles(name), torch::kFloat64).view(array.shape);
    }
    throw DataError(fmt::format("{} holds no {}", checkpoint_.file().string(), name));
  }

 private:
  const Checkpoint& checkpoint_;
};

class StateDict final : public TensorFile {
 public:
  explicit StateDict(const std::string& file) : file_(file) {}
  bool contains(const std::string& name) const override { return file_.tensors().contains(name); }
  torch::Tensor read(const std::string& name) const override {
    return torch::tensor(file_.read_doubles(name), torch::kFloat64).view(file_.tensors().at(name).shape);
  }

 private:
  SafetensorsFile file_;
};

using Informed = std::map<std::string, InformedTensor>;

/// Where each kind of prior finds the tensors of a slot.
struct Origin {
  std::string spec;
  double inflate = 1.0;
  std::function<InformedTensor(const Slot&)> tensor_of;  // mean undefined: the file has none that fits
};

Origin origin_in_run(const std::string& spec, double inflate, const Checkpoint* own) {
  return {spec, inflate, [own](const Slot& slot) {
            if (own == nullptr) {
              const torch::Tensor ones = torch::ones(slot.shape, torch::kFloat64);
              return InformedTensor{ones, ones.clone()};
            }
            const CheckpointTensors tensors(*own);
            return InformedTensor{tensors.find("prior/" + slot.name + "/mean", slot.shape),
                                  tensors.find("prior/" + slot.name + "/scale", slot.shape)};
          }};
}

Origin origin_in_checkpoint(const CheckpointPrior& prior, const std::string& spec) {
  const auto checkpoint = std::make_shared<Checkpoint>(prior.file);
  return {spec, prior.inflate, [checkpoint](const Slot& slot) {
            const CheckpointTensors tensors(*checkpoint);
            InformedTensor tensor{tensors.find("posterior/" + slot.name + "/mean", slot.shape),
                                  tensors.find("posterior/" + slot.name + "/scale", slot.shape)};
            if (!tensor.scale.defined()) tensor.mean = torch::Tensor();
            return tensor;
          }};
}

Origin origin_in_weights(const WeightsPrior& prior, const std::string& spec) {
  const auto weights = std::make_shared<StateDict>(prior.file);
  return {spec, 1.0, [weights, scale = prior.scale](const Slot& slot) {
            const torch::Tensor mean = weights->find(slot.name, slot.shape);
            return InformedTensor{mean, mean.defined() ? torch::full_like(mean, scale) : torch::Tensor()};
          }};
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

}  // namespace

void inform_priors(TensorRules<Prior>& rules, const Layout& network, int members, const ModelOrigin& from) {
  std::vector<Prior*> priors = {&rules.fallback};
  for (auto& [expression, prior] : rules.exceptions) priors.push_back(&prior);
  for (Prior* const prior : priors) {
    if (!needs_file(*prior)) continue;
    const Origin origin = origin_of(*prior, from);
    auto tensors = std::make_shared<Informed>();
    for (const Slot& slot : network.slots) {
      const Prior* const rule = rules.exception_for(slot.name);
      if ((rule != nullptr ? rule : &rules.fallback) != prior || (rule == nullptr && slot.is_norm)) continue;
      const InformedTensor tensor = origin.tensor_of(slot);
      require(tensor.mean.defined(),
              "--prior {}: that file has no distribution over {} [{}]; give such tensors a prior of their own, as in "
              "--prior '{}=normal:1'",
              origin.spec, slot.name, fmt::join(slot.shape, ", "), slot.name);
      tensors->emplace(slot.name, tensor);
      for (int member = 0; member < members; ++member) {
        tensors->emplace(fmt::format("member-{}.{}", member, slot.name), tensor);
      }
    }
    *prior = InformedPrior{tensors, origin.inflate, origin.spec};
  }
}

void start_at_priors(Posterior& posterior) {
  const torch::NoGradGuard no_grad;
  const PosteriorPlan& plan = posterior.plan();
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const auto* prior = std::get_if<InformedPrior>(&plan.priors[index]);
    if (prior == nullptr) continue;
    const InformedTensor& tensor = prior->tensors->at(plan.layout.slots[index].name);
    posterior.view(posterior.mean(), slot).copy_(tensor.mean);
    if (plan.segments[index].gaussian) set_scale(posterior, slot, tensor.scale);
  }
  posterior.set_drawn(std::nullopt);
}

void start_at_file(const std::string& file, Network& network, Posterior& posterior) {
  const torch::NoGradGuard no_grad;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<TensorFile> tensors;
  if (std::filesystem::is_directory(file)) {
    checkpoint = newest_checkpoint(file);
    require(checkpoint != nullptr, "--init {}: that directory holds no checkpoint", file);
  } else if (!file.ends_with(".safetensors")) {
    checkpoint = std::make_unique<Checkpoint>(file);
  }
  if (checkpoint) {
    tensors = std::make_unique<CheckpointTensors>(*checkpoint);
  } else {
    tensors = std::make_unique<StateDict>(file);
  }
  const PosteriorPlan& plan = posterior.plan();
  std::vector<std::string> left;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const Slot& place = plan.layout.slots[index];
    const std::string name = network.layout().slots[index % network.layout().slots.size()].name;
    const torch::Tensor mean = tensors->find(checkpoint ? "posterior/" + name + "/mean" : name, place.shape);
    if (!mean.defined()) {
      left.push_back(place.name);
      continue;
    }
    posterior.view(posterior.mean(), slot).copy_(mean);
    const torch::Tensor scale =
        tensors->find(checkpoint ? "posterior/" + name + "/scale" : name + ".scale", place.shape);
    if (plan.segments[index].gaussian && scale.defined()) set_scale(posterior, slot, scale);
  }
  require(static_cast<int>(left.size()) < plan.network_slots,
          "--init {}: none of its tensors has the name and shape of one of the network's, such as {}", file,
          left.empty() ? "" : left.front());
  for (const auto& [name, buffer] : network.float_buffers()) {
    const torch::Tensor stored = tensors->find(checkpoint ? "buffers/" + name : name, buffer.sizes().vec());
    torch::Tensor target = buffer;
    if (stored.defined()) target.copy_(stored);
  }
  log_info("init       {}{}", file,
           left.empty() ? "" : fmt::format(": not in it, and left as they were: {}", fmt::join(left, ", ")));
  posterior.set_drawn(std::nullopt);
}

}  // namespace credence
