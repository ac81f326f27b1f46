#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "credence/networks/layers.h"
#include "credence/networks/layout.h"

namespace credence {

/// Any LibTorch module whose parameters can be bound to views of one flat arena. Each parameter stays its own autograd
/// leaf, so the module needs to know nothing of posteriors, shards or ranks.
class Network {
 public:
  /// Takes the module as it is (its values are the initial weights) to the given type and device.
  /// Wrap a module of your own as `torch::nn::AnyModule(MyModule())`; its forward takes and returns one tensor.
  /// Where the likelihood has parameters of its own (learned observation noise), `raw_scales` holds their initial
  /// values [D]: they become one more parameter, `likelihood.raw_scale`, the last of the layout, whose values follow
  /// the module's in every example's outputs. A parameter without requires_grad stays as the module made it: no slot,
  /// no posterior, and no place in checkpoints, so the module must make the same values each time (or keep them as a
  /// buffer, which checkpoints hold). UserError where the module has no parameters or one that is not floating point.
  explicit Network(torch::nn::AnyModule module, torch::Dtype dtype = torch::kFloat32,
                   torch::Device device = torch::kCPU, const std::vector<double>& raw_scales = {});
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// [B, ...] -> [B, outputs], or [B, outputs + D] where the likelihood has D parameters.
  torch::Tensor forward(const torch::Tensor& inputs);
  torch::nn::Module& module() { return *module_.ptr(); }

  const Layout& layout() const noexcept { return layout_; }
  torch::Dtype dtype() const noexcept { return dtype_; }
  torch::Device device() const noexcept { return device_; }

  /// Products of matrices and convolutions in bfloat16 from now on, their inputs rounded before; parameters, gradients,
  /// buffers and outputs stay float32 (mixed precision as by LibTorch's autocast). Not where forward() is linearised.
  /// UserError for a network in float64, or one with latent variables.
  void compute_in_bfloat16();

  /// The parameters by slot, autograd leaves.
  const std::vector<torch::Tensor>& parameters() const noexcept { return parameters_; }
  /// A new arena [layout().elements] with the parameters' present values, padding zero.
  torch::Tensor values() const;
  /// Makes every parameter a view of `arena`: what is written there is what the module sees. The arena's memory must
  /// outlive the binding.
  void bind(const torch::Tensor& arena);
  /// The same with forward() linear in the arena's values w: f(x; base) + J(x) (w - base), by forward-mode
  /// differentiation, without gradients. Until the next bind().
  void bind_linearized(const torch::Tensor& arena, const torch::Tensor& base);

  /// Receives each parameter's gradient as soon as backward has it; the tensor is the callee's, `.grad` stays empty.
  using GradientSink = std::function<void(int slot, torch::Tensor gradient)>;
  void set_gradient_sink(GradientSink sink);

  /// A layer of layers.h and the slots of its parameters; -1: it has none, or one that is not trained. Layers that
  /// share a parameter with another module are left out.
  struct Noisy {
    NoisyLayer* layer;
    std::string name;
    int weight = -1;
    int bias = -1;
  };
  const std::vector<Noisy>& noisy_layers() const noexcept { return noisy_layers_; }

  /// Floating-point module buffers (batch-norm statistics) as views of one flat arena [elements]; may be empty.
  const torch::Tensor& buffer_arena() const noexcept { return buffer_arena_; }
  /// All buffers by name: views of the arena, and the integer ones themselves.
  const std::vector<std::pair<std::string, torch::Tensor>>& float_buffers() const noexcept { return float_buffers_; }
  const std::vector<std::pair<std::string, torch::Tensor>>& integer_buffers() const noexcept {
    return integer_buffers_;
  }

 private:
  struct SinkHolder;
  torch::Tensor forward_bound(const torch::Tensor& inputs);
  torch::Tensor forward_linearized(const torch::Tensor& inputs);
  void build_layout();
  void add_slot(Slot slot, const torch::Tensor& parameter);
  void find_noisy_layers();
  void bind_buffers();

  mutable torch::nn::AnyModule module_;
  torch::Dtype dtype_;
  torch::Device device_;
  bool bfloat16_ = false;
  torch::Tensor likelihood_parameter_;  // [D]; undefined without
  Layout layout_;
  std::vector<torch::Tensor> parameters_;  // in layout order
  std::vector<Noisy> noisy_layers_;
  torch::Tensor base_, linear_in_;  // of bind_linearized(); else undefined
  std::shared_ptr<SinkHolder> sink_;
  torch::Tensor buffer_arena_;
  std::vector<std::pair<std::string, torch::Tensor>> float_buffers_;
  std::vector<std::pair<std::string, torch::Tensor>> integer_buffers_;
};

/// Calls `take` with a leaf's gradient as soon as backward has it; `.grad` stays empty.
void on_gradient(const torch::Tensor& leaf, std::function<void(torch::Tensor)> take);

/// Whether a module is a normalisation layer, whose scale and shift are point estimates by default.
bool is_norm_layer(const torch::nn::Module& module);
/// Whether an example's output depends on the other examples of its batch: a layer of batch normalisation in training.
bool normalizes_over_batch(torch::nn::Module& module);

}  // namespace credence
