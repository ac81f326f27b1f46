#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"

namespace credence {

/// A root of the Hessian of -log p(y | f) in the outputs f, which does not depend on y: tensors L_k [B, outputs] with
/// Hessian = sum over k of L_k L_k' for every example. Learned noise counts as known. UserError for heteroscedastic
/// and Student's t.
std::vector<torch::Tensor> hessian_root(const Likelihood& likelihood, const torch::Tensor& outputs);

/// The generalised Gauss-Newton matrix, sum over examples of J' H J with J the outputs' Jacobian and H the Hessian
/// above (Schraudolph 2002), at the weights that the network is bound to. One backward pass for each column of the
/// root: gradients of single examples come from what Linear and Conv2d keep of the forward pass, read off the autograd
/// graph; other parameters cost a pass for every example. Without module state: the network should be in evaluation
/// mode.
class Curvature {
 public:
  /// `slots` of the network, which the matrix is over, in order.
  Curvature(Network& network, const Likelihood& likelihood, std::vector<int> slots);

  std::int64_t weights() const { return weights_; }
  /// Adds the block's part to `sum`, float64: the diagonal [weights()], or the whole [weights(), weights()]. Returns
  /// the outputs, detached.
  torch::Tensor add_diagonal(const torch::Tensor& inputs, const torch::Tensor& sum);
  torch::Tensor add_matrix(const torch::Tensor& inputs, const torch::Tensor& sum);
  /// Tensors that cost a pass for every example, known after the first block.
  const std::vector<std::string>& slow_tensors() const { return slow_tensors_; }

 private:
  struct Use;    // of a parameter by a layer, with what the layer read
  struct Block;  // a forward pass
  Block run(const torch::Tensor& inputs);
  void add_diagonal_one_by_one(const torch::Tensor& inputs, const std::vector<std::size_t>& places,
                               const torch::Tensor& sum);

  Network& network_;
  const Likelihood& likelihood_;
  std::vector<int> slots_;
  std::vector<std::int64_t> first_;  // place of each slot's first weight
  std::int64_t weights_ = 0;
  std::vector<std::string> slow_tensors_;
};

}  // namespace credence
