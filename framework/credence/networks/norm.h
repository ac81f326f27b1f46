#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <string>

namespace credence {

/// How the convolutions of a network are normalised.
enum class Norm : std::uint8_t {
  batch,  // over the examples of a shard; running statistics in evaluation
  sync,   // over the examples of all shards of a step, one a rank; see sync_norm.h
  group,  // Wu and He 2018: 32 groups of channels, or as many as leave two channels a group
  frn,    // filter response normalisation with a thresholded linear unit for relu (Singh and Krishnan 2020)
  none    // the convolutions have biases instead
};
/// batch | sync | group | frn | none; no value for an empty text. UserError.
std::optional<Norm> parse_norm(const std::string& name);

/// A normalisation layer of a network and the nonlinearity that goes with it.
class NormLayer {
 public:
  virtual ~NormLayer() = default;
  /// [B, C, H, W], the same shape.
  virtual torch::Tensor normalize(const torch::Tensor& x) = 0;
  /// What the network's relu is under this normalisation, after a shortcut was added or without one. May overwrite x.
  virtual torch::Tensor activate(torch::Tensor x) { return x.relu_(); }
  /// Makes normalize() a map to zero, whatever its input.
  virtual void zero_scale() = 0;

  torch::Tensor normalize_and_activate(const torch::Tensor& x) { return activate(normalize(x)); }
};

/// A new layer over `channels` as child `name` of `parent`, which owns it. Parameters `weight` and `bias`, of frn also
/// `threshold`; none has none.
NormLayer* add_norm(torch::nn::Module& parent, const std::string& name, Norm norm, std::int64_t channels);
/// The same for a layer that only normalizes, without the threshold.
NormLayer* add_linear_norm(torch::nn::Module& parent, const std::string& name, Norm norm, std::int64_t channels);

}  // namespace credence
