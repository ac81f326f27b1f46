#include "credence/networks/network.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"
#include "credence/networks/latent_model.h"
#include "credence/networks/norm.h"
#include "credence/networks/onednn_products.h"
#include "credence/networks/torchscript.h"

namespace credence {

/// Shared by the hooks of all parameters, so that a sink can be exchanged without touching autograd.
struct Network::SinkHolder {
  GradientSink sink;
};

namespace {

class GradientHook final : public torch::autograd::PostAccumulateGradHook {
 public:
  GradientHook(std::function<void(torch::Tensor)> take) : take_(std::move(take)) {}
  void operator()(const torch::autograd::Variable& parameter) override {
    torch::Tensor gradient = parameter.mutable_grad();
    parameter.mutable_grad() = torch::Tensor();
    take_(std::move(gradient));
  }

 private:
  std::function<void(torch::Tensor)> take_;
};

/// Forward-mode differentiation for as long as it lives.
struct DualLevel {
  DualLevel() : index(torch::autograd::forward_ad::enter_dual_level()) {}
  ~DualLevel() { torch::autograd::forward_ad::exit_dual_level(index); }
  DualLevel(const DualLevel&) = delete;
  DualLevel& operator=(const DualLevel&) = delete;
  std::uint64_t index;
};

std::int64_t padded(std::int64_t count) {
  return (count + kernels::kNoiseGroup - 1) / kernels::kNoiseGroup * kernels::kNoiseGroup;
}

std::int64_t fan_in_of(const torch::Tensor& weight) {
  if (weight.dim() < 2) return std::max<std::int64_t>(weight.numel(), 1);
  return std::max<std::int64_t>(weight.numel() / weight.size(0), 1);
}

/// Autocast to bfloat16 for as long as it lives. Casts of parameters are kept no longer: the next draw writes others.
class Autocast {
 public:
  explicit Autocast(c10::DeviceType device)
      : device_(device),
        was_enabled_(at::autocast::is_autocast_enabled(device)),
        dtype_before_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, torch::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_dtype(device_, dtype_before_);
    at::autocast::set_autocast_enabled(device_, was_enabled_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool was_enabled_;
  at::ScalarType dtype_before_;
};

/// Module::to(device, dtype) would turn counters into floating point too.
void convert(torch::nn::Module& module, torch::Dtype dtype, torch::Device device) {
  const auto convert_all = [&](std::vector<torch::Tensor> tensors) {
    for (torch::Tensor& tensor : tensors) {
      if (!tensor.defined()) continue;
      tensor.set_data(tensor.is_floating_point() ? tensor.to(device, dtype) : tensor.to(device));
    }
  };
  convert_all(module.parameters());
  convert_all(module.buffers());
}

}  // namespace

void on_gradient(const torch::Tensor& leaf, std::function<void(torch::Tensor)> take) {
  torch::autograd::impl::set_post_acc_grad_hooks(leaf, std::make_unique<GradientHook>(std::move(take)));
}

bool is_norm_layer(const torch::nn::Module& module) {
  using namespace torch::nn;
  const auto* const script = dynamic_cast<const ScriptPart*>(&module);
  if (script != nullptr) return script->is_norm;
  return dynamic_cast<const BatchNorm1dImpl*>(&module) || dynamic_cast<const BatchNorm2dImpl*>(&module) ||
         dynamic_cast<const BatchNorm3dImpl*>(&module) || dynamic_cast<const InstanceNorm1dImpl*>(&module) ||
         dynamic_cast<const InstanceNorm2dImpl*>(&module) || dynamic_cast<const InstanceNorm3dImpl*>(&module) ||
         dynamic_cast<const LayerNormImpl*>(&module) || dynamic_cast<const GroupNormImpl*>(&module) ||
         dynamic_cast<const NormLayer*>(&module);
}

bool normalizes_over_batch(torch::nn::Module& module) {
  using namespace torch::nn;
  const auto parts = module.modules();
  return std::any_of(parts.begin(), parts.end(), [](const auto& part) {
    return part->template as<BatchNorm1d>() || part->template as<BatchNorm2d>() || part->template as<BatchNorm3d>() ||
           (part->template as<ScriptPart>() && part->template as<ScriptPart>()->normalizes_over_batch);
  });
}

Network::Network(torch::nn::AnyModule module, torch::Dtype dtype, torch::Device device,
                 const std::vector<double>& raw_scales)
    : module_(std::move(module)), dtype_(dtype), device_(device), sink_(std::make_shared<SinkHolder>()) {
  if (!blas_suits_processor()) use_onednn_for_products();
  convert(*module_.ptr(), dtype, device);
  if (!raw_scales.empty()) {
    likelihood_parameter_ = torch::tensor(raw_scales, torch::kFloat64).to(device, dtype).set_requires_grad(true);
  }
  build_layout();
  find_noisy_layers();
  bind_buffers();
}

Network::~Network() {
  sink_->sink = nullptr;
}

torch::Tensor Network::forward(const torch::Tensor& inputs) {
  return base_.defined() ? forward_linearized(inputs) : forward_bound(inputs);
}

void Network::compute_in_bfloat16() {
  require(dtype_ == torch::kFloat32, "bfloat16 products are for networks in float32, not float64");
  require(dynamic_cast<const LatentModel*>(module_.ptr().get()) == nullptr,
          "--precision bf16 is not for networks with latent variables, whose densities need more digits; use float32");
  bfloat16_ = true;
}

torch::Tensor Network::forward_bound(const torch::Tensor& inputs) {
  std::optional<Autocast> autocast;
  if (bfloat16_) autocast.emplace(device_.type());
  torch::Tensor outputs = module_.forward(inputs);
  autocast.reset();
  outputs = outputs.to(dtype_);
  if (!likelihood_parameter_.defined()) return outputs;
  return torch::cat({outputs, likelihood_parameter_.expand({outputs.size(0), -1})}, 1);
}

void Network::build_layout() {
  const auto* latent = dynamic_cast<const LatentModel*>(module_.ptr().get());
  std::unordered_set<const void*> seen;  // a parameter shared by two modules has one slot
  for (const auto& named_module : module_.ptr()->named_modules()) {
    const torch::nn::Module& part = *named_module.value();
    const auto own = part.named_parameters(/*recurse=*/false);
    const torch::Tensor* weight = own.find("weight");
    for (const auto& item : own) {
      torch::Tensor parameter = item.value();
      if (!parameter.defined() || !parameter.requires_grad()) continue;
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
      const std::string name = named_module.key().empty() ? item.key() : named_module.key() + "." + item.key();
      require(parameter.is_floating_point(), "parameter {} of the network is not floating point", name);
      require(parameter.numel() > 0, "parameter {} of the network is empty", name);
      Slot slot;
      slot.name = name;
      slot.shape = parameter.sizes().vec();
      slot.fan_in = fan_in_of(weight != nullptr && weight->defined() && weight->dim() >= 2 ? *weight : parameter);
      slot.is_bias = item.key() == "bias" || item.key().ends_with("_bias");
      slot.is_norm = is_norm_layer(part);
      if (latent != nullptr) {
        slot.is_amortized = latent->is_amortized(name);
        slot.is_deviation = latent->is_deviation(name);
        if (slot.is_deviation) slot.fan_in /= slot.shape.back();  // the groups, which no unit sums over
        slot.categorical_log_prior = latent->categorical_log_prior(name);
      }
      add_slot(std::move(slot), parameter);
    }
  }
  require(!layout_.slots.empty(), "the network has no trainable parameters");
  if (!likelihood_parameter_.defined()) return;
  Slot slot;
  slot.name = "likelihood.raw_scale";
  slot.shape = likelihood_parameter_.sizes().vec();
  slot.is_likelihood = true;
  add_slot(std::move(slot), likelihood_parameter_);
}

void Network::add_slot(Slot slot, const torch::Tensor& parameter) {
  slot.offset = layout_.elements;
  slot.count = parameter.numel();
  layout_.elements += padded(slot.count);
  const int index = static_cast<int>(layout_.slots.size());
  on_gradient(parameter, [holder = sink_, index](torch::Tensor gradient) {
    if (holder->sink) holder->sink(index, std::move(gradient));
  });
  layout_.slots.push_back(std::move(slot));
  parameters_.push_back(parameter);
}

void Network::find_noisy_layers() {
  std::unordered_map<const void*, int> slot_of, uses;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    slot_of[parameters_[i].unsafeGetTensorImpl()] = static_cast<int>(i);
  const auto modules = module_.ptr()->named_modules();
  for (const auto& part : modules) {
    for (const auto& item : part.value()->named_parameters(/*recurse=*/false))
      ++uses[item.value().unsafeGetTensorImpl()];
  }
  for (const auto& part : modules) {
    auto* const layer = dynamic_cast<NoisyLayer*>(part.value().get());
    if (layer == nullptr) continue;
    Noisy noisy{layer, part.key()};
    bool own = true;
    for (const auto& item : part.value()->named_parameters(/*recurse=*/false)) {
      const void* const parameter = item.value().unsafeGetTensorImpl();
      own = own && uses[parameter] == 1;
      const auto slot = slot_of.find(parameter);
      if (slot != slot_of.end()) (item.key() == "bias" ? noisy.bias : noisy.weight) = slot->second;
    }
    if (own && noisy.weight >= 0) noisy_layers_.push_back(noisy);
  }
}

void Network::bind_buffers() {
  std::int64_t elements = 0;
  std::vector<std::pair<std::string, torch::Tensor>> floats;
  for (const auto& item : module_.ptr()->named_buffers()) {
    torch::Tensor buffer = item.value();
    if (!buffer.defined()) continue;
    require(!buffer.is_complex() && !buffer.is_quantized(),
            "the network's buffer {} holds {}, and buffers of real numbers, integers and bools are supported",
            item.key(), c10::toString(buffer.scalar_type()));
    if (buffer.is_floating_point()) {
      floats.emplace_back(item.key(), buffer);
      elements += padded(buffer.numel());
    } else {
      integer_buffers_.emplace_back(item.key(), buffer);
    }
  }
  buffer_arena_ = torch::zeros({elements}, torch::TensorOptions().dtype(dtype_).device(device_));
  const torch::NoGradGuard no_grad;
  std::int64_t offset = 0;
  for (auto& [name, buffer] : floats) {
    torch::Tensor view = buffer_arena_.narrow(0, offset, buffer.numel()).view(buffer.sizes());
    view.copy_(buffer);
    buffer.set_data(view);
    float_buffers_.emplace_back(name, buffer);
    offset += padded(buffer.numel());
  }
}

torch::Tensor Network::values() const {
  const torch::NoGradGuard no_grad;
  torch::Tensor arena = torch::zeros({layout_.elements}, torch::TensorOptions().dtype(dtype_).device(device_));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Slot& slot = layout_.slots[i];
    arena.narrow(0, slot.offset, slot.count).copy_(parameters_[i].reshape({-1}));
  }
  return arena;
}

void Network::bind(const torch::Tensor& arena) {
  ensure(arena.dim() == 1 && arena.numel() == layout_.elements && arena.is_contiguous() &&
             arena.scalar_type() == dtype_ && arena.device().type() == device_.type(),
         "arena and layout differ");
  base_ = linear_in_ = torch::Tensor();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Slot& slot = layout_.slots[i];
    parameters_[i].set_data(arena.narrow(0, slot.offset, slot.count).view(slot.shape));
  }
}

void Network::bind_linearized(const torch::Tensor& arena, const torch::Tensor& base) {
  ensure(arena.sizes() == base.sizes(), "arena and layout differ");
  bind(base);
  base_ = base;
  linear_in_ = arena;
}

torch::Tensor Network::forward_linearized(const torch::Tensor& inputs) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor change = linear_in_ - base_;
  const DualLevel level;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Slot& slot = layout_.slots[i];
    parameters_[i]._set_fw_grad(change.narrow(0, slot.offset, slot.count).view(slot.shape), level.index, false);
  }
  const torch::Tensor outputs = forward_bound(inputs);
  const torch::Tensor slope = outputs._fw_grad(level.index);
  return slope.defined() ? outputs + slope : outputs;
}

void Network::set_gradient_sink(GradientSink sink) {
  sink_->sink = std::move(sink);
}

}  // namespace credence
