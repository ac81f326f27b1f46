#pragma once

#include <torch/script.h>
#include <torch/torch.h>

#include <string>

namespace credence {

/// A module of a TorchScript module. Its parameters and buffers are those of the script, the very tensors: whoever
/// gives them other memory (Network) gives it to the script.
struct ScriptPart : torch::nn::Module {
  explicit ScriptPart(torch::jit::Module script);
  void train(bool on = true) override;
  /// Of a layer of batch normalisation: the share of the newest batch in a running average. UserError where the script
  /// does not tell it, being traced.
  double momentum() const;

  bool is_norm = false;                // by the name of its class: BatchNorm2d, LayerNorm, ...
  bool normalizes_over_batch = false;  // BatchNorm

 protected:
  torch::jit::Module script_;
};

/// A TorchScript module (torch.jit.script or torch.jit.trace) as an ordinary one: same parameter names, same numbers.
/// Its operations run as they stand, without the optimizations of TorchScript, which may change the numbers after the
/// first calls.
class ScriptModuleImpl : public ScriptPart {
 public:
  explicit ScriptModuleImpl(torch::jit::Module script);
  /// UserError where the script fails on these inputs or gives something else than one tensor.
  torch::Tensor forward(const torch::Tensor& inputs);

  std::string file_digest;  // of the file it came from, hexadecimal
};
TORCH_MODULE(ScriptModule);

/// DataError where the file is none, is damaged (its checksums are compared), or leads LibTorch astray: another process
/// loads it first, within limits of time and memory.
ScriptModule load_script(const std::string& file);
/// Of the file that a network is, if it is one; else empty.
std::string script_digest(const torch::nn::Module& network);

}  // namespace credence
