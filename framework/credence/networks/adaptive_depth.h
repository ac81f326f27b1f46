#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "credence/networks/latent_model.h"
#include "credence/networks/layers.h"

namespace credence {

/// A fully connected residual network whose number of blocks is a latent variable l = 1 ... L with a prior p(l) and a
/// categorical q(l), after Nazaret and Blei 2022 ("Variational inference for infinitely deep neural networks"): every
/// depth has an output layer of its own. q is one for all examples (the parameter `depth_logits`), or is given for each
/// input by a small network (`gate`).
class AdaptiveDepthImpl final : public torch::nn::Module, public LatentModel {
 public:
  struct Sizes {
    std::int64_t inputs = 1, width = 1, outputs = 1;
    std::vector<double> log_prior = {};  // [L], normalised, nats
    bool per_input = false;
  };
  explicit AdaptiveDepthImpl(const Sizes& sizes);

  /// [B, ...] -> [B, L * outputs + L + 1]: the outputs of every depth in order, log q(l), and KL(q || p) of q per input
  /// in nats, 0 for one q. In evaluation mode with halting only the blocks up to each example's mode of q are computed,
  /// and outputs of other depths are 0.
  torch::Tensor forward(torch::Tensor x);

  /// On at first.
  void set_halting(bool halts) { halts_ = halts; }
  bool halts() const { return halts_; }
  std::int64_t depths() const { return static_cast<std::int64_t>(log_prior_.size()); }

  bool is_amortized(const std::string& parameter) const override { return parameter.starts_with("gate."); }
  std::vector<double> categorical_log_prior(const std::string& parameter) const override;

 private:
  torch::Tensor log_q(const torch::Tensor& x);  // [B, L]
  std::vector<torch::Tensor> outputs_to_mode(torch::Tensor hidden, const torch::Tensor& log_q);
  torch::Tensor block(std::size_t index, const torch::Tensor& hidden);

  std::vector<double> log_prior_;
  bool halts_ = true;
  std::int64_t outputs_;
  torch::Tensor depth_logits_;  // [L], or undefined
  torch::nn::Sequential gate_{nullptr};
  Linear input_{nullptr};
  std::vector<Linear> first_, second_, heads_;  // of each block
};
TORCH_MODULE(AdaptiveDepth);

}  // namespace credence
