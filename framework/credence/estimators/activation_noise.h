#pragma once

#include <string>
#include <vector>

#include "credence/estimators/backward.h"
#include "credence/networks/layers.h"

namespace credence {

/// Flipout (Wen et al. 2018) and local reparameterisation (Kingma et al. 2015): noise of its own for every example of a
/// batch, in the layers of layers.h; other tensors take plain weight noise. Signs and activation noise are functions of
/// (seed, step, shard, sample, layer, index in shard, unit).
///
/// Reported losses are those of weight draws: an example's noisy outputs are distributed as under a weight draw of its
/// own, so the pass's loss is reported as it is - unless the network convolves with local reparameterisation (which
/// forgets that the positions of an output share their weights) or normalises over the batch (whose statistics then
/// come of as many draws as examples). There the loss that is minimised is another one, and each pass is preceded by
/// one without gradients under a weight draw, which is what is reported.
class ActivationNoiseEstimator final : public BackwardEstimator {
 public:
  using Kind = ActivationNoise::Kind;
  /// UserError where a tensor's posterior is none of mean-field, sparse and point, or no layer can take the noise.
  ActivationNoiseEstimator(const Parts& parts, const Options& options, Kind kind);
  ~ActivationNoiseEstimator() override;

 private:
  /// A layer that takes noise, with its second leaves.
  struct Layer {
    Network::Noisy place;
    NoisyLayer::Second second;
  };
  void run_pass(const Pass& pass) override;
  void run_member(const Pass& pass, int member);
  void bind(int member);
  void make_layers();
  torch::Tensor make_leaf(int slot);
  void set_noise(bool on);
  torch::Tensor reported_loss(const Pass& pass, int member, torch::Tensor& outputs);
  std::vector<torch::Tensor> drawn_weights(const Pass& pass, int member);
  torch::Tensor draw_noise(int layer, at::IntArrayRef shape);
  torch::Tensor draw_signs(const kernels::NoiseStream& noise, at::IntArrayRef shape) const;
  torch::Tensor draw_normals(const kernels::NoiseStream& noise, at::IntArrayRef shape);
  int slot_of(int slot, int member) const { return member * parts().posterior.plan().member_slots() + slot; }

  ActivationNoise noise_;
  std::vector<Layer> layers_;
  torch::Tensor second_;           // [elements]: deviations or scales
  bool reports_apart_ = false;     // the loss minimised is not that of weight draws
  kernels::NoiseStream stream_{};  // of the present pass; each layer has a sample number of its own
  int member_ = 0;
  torch::Tensor ones_, scratch_;
};

}  // namespace credence
