#include "credence/training/run_arrays.h"

#include <cstddef>
#include <variant>

#include "credence/base/errors.h"

namespace credence {

DType dtype_of_tensor(const torch::Tensor& tensor) {
  if (tensor.scalar_type() == torch::kFloat64) return DType::float64;
  if (tensor.scalar_type() == torch::kInt64) return DType::int64;
  ensure(tensor.scalar_type() == torch::kFloat32, "a checkpoint holds float32, float64 and int64 only");
  return DType::float32;
}

torch::Tensor stored_tensor(const torch::Tensor& buffer) {
  const torch::Tensor host = buffer.detach().cpu();
  return (host.is_floating_point() ? host : host.to(torch::kInt64)).contiguous();
}

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

}  // namespace credence
