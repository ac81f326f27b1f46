#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "credence/kernels/noise.h"

namespace credence {

class Posterior;

/// What a term adds to E_q[-log p(w)] and to H[q]: float64 scalars in nats, with gradients.
struct ComplexityNats {
  torch::Tensor cross_entropy, entropy;  // undefined: zero
};

/// The optimised arrays of a posterior as autograd leaves, by slot of its layout.
class PosteriorLeaves {
 public:
  explicit PosteriorLeaves(const Posterior& posterior);
  const torch::Tensor& mean(int slot);   // in the slot's shape; of a further array: its values
  const torch::Tensor& scale(int slot);  // standard deviations; Gaussian slots only

  struct Leaf {
    int slot;
    bool is_scale;
    torch::Tensor value;
  };
  const std::vector<Leaf>& used() const { return leaves_; }

 private:
  const torch::Tensor& leaf(int slot, bool is_scale);

  const Posterior& posterior_;
  torch::Tensor scales_;
  std::vector<Leaf> leaves_;
};

/// A family whose draws need more than the kernels' w = mean + scale * eps over Gaussian tensors and w = mean over the
/// others. Its further arrays ("factor", ...) are slots of the posterior's layout beyond the network's: the arena, its
/// reduction, the optimizer and checkpoints treat them as they treat weights without a prior.
class Structure {
 public:
  using Give = std::function<void(int slot, const torch::Tensor& gradient)>;

  virtual ~Structure() = default;

  /// Slots of the network that it governs.
  const std::vector<int>& slots() const noexcept { return slots_; }
  /// Whether two draws differ.
  virtual bool is_random() const { return true; }

  /// Turns the kernels' draw in the posterior's weights into one of this family.
  virtual void draw(Posterior& posterior, const kernels::NoiseStream& noise) = 0;
  /// From the gradient with respect to the drawn weights of `slot` to that which the kernels take (of mean, and through
  /// eps of scale), returned, and those of further arrays, given. Called once for every slot and draw, after draw().
  virtual torch::Tensor pull_back(Posterior& posterior, int slot, const torch::Tensor& gradient, const Give& give) = 0;
  /// What the kernels' terms lack; `slot` -1 stands for all tensors together.
  virtual std::vector<std::pair<int, ComplexityNats>> complexity(const Posterior&, PosteriorLeaves&) { return {}; }
  /// Standard deviations of single weights under q [slot's shape], with gradients: Gaussian families only.
  virtual torch::Tensor marginal_scale(PosteriorLeaves& leaves, int slot) const { return leaves.scale(slot); }
  /// The network's means are an iterate that the posterior is to be made of; `collected` came before it.
  virtual void collect(Posterior&, std::int64_t /*collected*/) {}
  /// The mean of the weights under q, written over the means that `weights` holds [elements of the network].
  virtual void write_mean(const Posterior&, torch::Tensor&) const {}

 protected:
  explicit Structure(std::vector<int> slots) : slots_(std::move(slots)) {}

 private:
  std::vector<int> slots_;
};

}  // namespace credence
