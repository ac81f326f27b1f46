#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "credence/networks/latent_model.h"

namespace credence {

/// Variational autoencoder (Kingma and Welling 2014): q(z | x) Gaussian with diagonal covariance, p(z) = N(0, I), fully
/// connected encoder and decoder with mirrored hidden layers. One z is drawn a pass, from LibTorch's generator.
class VaeImpl final : public torch::nn::Module, public LatentModel {
 public:
  struct Sizes {
    std::int64_t inputs = 1, latent = 1;
    std::vector<std::int64_t> widths = {};  // of the encoder's hidden layers; may be empty: linear
    std::int64_t outputs = 1;               // of the decoder
  };
  explicit VaeImpl(const Sizes& sizes);

  /// [B, ...] -> [B, outputs + 2]: the decoder's values at the z drawn, log q(z | x) - log p(z) of that z, and
  /// KL(q(z | x) || p(z)), both in nats.
  torch::Tensor forward(torch::Tensor x);

  struct Code {
    torch::Tensor mean, log_variance;  // [B, latent]
  };
  Code encode(const torch::Tensor& x);
  /// [B, latent] -> [B, outputs]
  torch::Tensor decode(torch::Tensor z);
  std::int64_t latent() const { return latent_; }

  bool is_amortized(const std::string& parameter) const override { return parameter.starts_with("encoder."); }

 private:
  std::int64_t latent_;
  torch::nn::Sequential encoder_, decoder_;
};
TORCH_MODULE(Vae);

}  // namespace credence
