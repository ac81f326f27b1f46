#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>

namespace credence {

/// Noise on the activations of layers in place of noise on their weights. A layer then holds its mean weights as its
/// parameters and a second arena's values beside them.
struct ActivationNoise {
  enum class Kind : std::uint8_t {
    /// Wen et al. 2018: every example has the weights mean + deviation * r s^T, deviation = one draw minus the mean
    /// (the second values), r and s its own random signs; of a convolution one sign a channel.
    flipout,
    /// Kingma et al. 2015: outputs are drawn from their own Gaussian, whose variance is that of the weights (the second
    /// values are standard deviations) times squared inputs. A convolution's positions are drawn independently.
    local
  };
  Kind kind = Kind::flipout;
  /// One layer's noise for a batch: signs of +-1 (flipout) or standard normal numbers (local), in the given shape,
  /// whose first axis is the example.
  std::function<torch::Tensor(int layer, at::IntArrayRef shape)> draw;
};

/// A layer whose output can take noise. Without it, the layer is LibTorch's own.
class NoisyLayer {
 public:
  virtual ~NoisyLayer() = default;

  /// Second values by parameter, in its shape; undefined: none. Autograd leaves where they have a gradient.
  struct Second {
    torch::Tensor weight, bias;
  };
  /// `noise` must outlive its use; null: none. `layer`: its number in the network.
  void set_noise(const ActivationNoise* noise, int layer, Second second);
  bool convolves() const { return convolves_; }
  /// Whether an example passes many rows through it, as a transformer's tokens do: it refuses noise then.
  bool reads_rows() const { return reads_rows_; }

 protected:
  explicit NoisyLayer(bool convolves, bool reads_rows = false) : convolves_(convolves), reads_rows_(reads_rows) {}
  bool is_noisy() const { return noise_ != nullptr; }
  using Map =
      std::function<torch::Tensor(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias)>;
  /// The noisy output of a map that is linear in (weight, bias). x [B, channels, ...].
  torch::Tensor noisy(const torch::Tensor& x, const torch::Tensor& mean, std::int64_t outputs, const Map& map) const;

 private:
  const ActivationNoise* noise_ = nullptr;
  int layer_ = 0;
  Second second_;
  bool convolves_, reads_rows_;
};

/// torch::nn::Linear for inputs [B, features], same parameters and numbers; `reads_rows`: [B, rows, features].
class LinearImpl : public torch::nn::LinearImpl, public NoisyLayer {
 public:
  explicit LinearImpl(const torch::nn::LinearOptions& chosen, bool reads_rows = false);
  torch::Tensor forward(const torch::Tensor& x);
};
TORCH_MODULE(Linear);

/// torch::nn::Conv2d with zero padding, same parameters and numbers.
class Conv2dImpl : public torch::nn::Conv2dImpl, public NoisyLayer {
 public:
  explicit Conv2dImpl(const torch::nn::Conv2dOptions& chosen);
  torch::Tensor forward(const torch::Tensor& x);
};
TORCH_MODULE(Conv2d);

/// Images [B, C, H, W] with the channels of a pixel side by side in memory, as convolutions of many channels are
/// fastest; every layer after takes it over. (Weights and gradients stay as they are.) One channel is in both orders at
/// once, so only its strides tell layers which one to go on with: contiguous() would leave them.
inline torch::Tensor with_channels_last(const torch::Tensor& images) {
  constexpr auto kFormat = torch::MemoryFormat::ChannelsLast;
  return images.suggest_memory_format() == kFormat && images.is_contiguous(kFormat) ? images : images.clone(kFormat);
}

}  // namespace credence
