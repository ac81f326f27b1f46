#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "credence/likelihoods/likelihood.h"

namespace credence {

// Likelihoods of networks with latent variables of their own (networks/latent_model.h). What such a network tells of
// its latent variables are further columns of its outputs.

/// vae-bernoulli | vae-categorical[:LEVELS] | vae-gaussian[:STDDEV]. UserError where it does not fit the examples.
VaeLikelihood parse_vae_likelihood(const std::string& spec, const ExampleSpec& examples);

/// What a network's examples are told by: `likelihood` itself, or around it the one that knows the network's latent
/// depth. UserError where a network with latent variables and a likelihood do not go together.
Likelihood likelihood_of(const Likelihood& likelihood, const torch::nn::Module& module);

/// The values that describe inputs as this likelihood sees them: [B, D] of `dtype`; levels int64.
torch::Tensor vae_targets(const VaeLikelihood& likelihood, const Batch& batch, torch::Dtype dtype);
/// At the z drawn, of every example, in the outputs' type, [B]: log p(x, z) - log q(z | x), whose exponential is an
/// unbiased estimate of p(x), and log p(x | z) - KL(q(z | x) || p(z)), an unbiased estimate of the ELBO.
struct VaeBounds {
  torch::Tensor log_weight, elbo;
};
VaeBounds vae_bounds(const VaeLikelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets);
/// Means of x given the decoder's values [B, output_size]: [B, D], pixels from 0 to 1, or values as the inputs are.
torch::Tensor vae_mean(const VaeLikelihood& likelihood, const torch::Tensor& decoded);
/// The targets on the same scale, [B, D].
torch::Tensor vae_pixels(const VaeLikelihood& likelihood, const torch::Tensor& targets);

/// What the inner likelihood reads at one depth (from 0), or for every example at the mode of q.
torch::Tensor outputs_at_depth(const DepthLikelihood& likelihood, const torch::Tensor& outputs, std::int64_t depth);
torch::Tensor outputs_at_mode(const DepthLikelihood& likelihood, const torch::Tensor& outputs);
/// log q(depth), [B, L].
torch::Tensor log_depth_probabilities(const DepthLikelihood& likelihood, const torch::Tensor& outputs);
/// sum over depths of q log p(y | depth), less the KL of q per input where there is one: [B], in the outputs' type.
torch::Tensor depth_elbo(const DepthLikelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets);

}  // namespace credence
