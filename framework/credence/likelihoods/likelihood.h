#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/kernels/noise.h"

namespace credence {

/// log softmax over classes; targets are labels [B], or class probabilities [B, C] of mixed examples. The last two make
/// of it, while training, another likelihood than that of the data.
struct CategoricalLikelihood {
  std::int64_t classes = 0;
  double smoothing = 0.0;  // of labels: so much of each goes to all classes alike (Szegedy et al. 2016, sec. 7)
  double mixup = 0.0;      // alpha; see mix_examples()
};
/// Independent logits; targets [B, D] in {0, 1}. Labels of two classes are one column.
struct BernoulliLikelihood {
  std::int64_t columns = 1;
};
/// Known observation noise (standard deviation); targets [B, D].
struct GaussianLikelihood {
  double scale = 1.0;
  std::int64_t columns = 1;
};
/// Observation noise learned with the weights, one standard deviation a column: softplus of the network's
/// `likelihood.raw_scale`. Outputs [B, 2D]: means, then the raw scales that the Network appends.
struct LearnedGaussianLikelihood {
  std::int64_t columns = 1;
};
/// The network gives the noise of every example too: outputs [B, 2D], means, then log variances (Nix and Weigend 1994).
struct HeteroscedasticLikelihood {
  std::int64_t columns = 1;
};
/// Counts; outputs are log rates [B, D].
struct PoissonLikelihood {
  std::int64_t columns = 1;
};
/// Noise with heavy tails around the output; dof = 1 is Cauchy's.
struct StudentTLikelihood {
  double dof = 4.0;
  double scale = 1.0;
  std::int64_t columns = 1;
};
/// Of the inputs themselves, by a network with a latent code (networks/vae.h); see latent.h. Labels are ignored.
struct VaeLikelihood {
  enum class Values : std::uint8_t { bernoulli, levels, gaussian };
  Values values = Values::bernoulli;
  std::int64_t columns = 1;     // D, inputs per example
  std::int64_t levels = 1;      // that a pixel may have, equally wide
  double scale = 1.0;           // of gaussian: standard deviation
  bool binarize = false;        // pixels above 1/2 are 1
  Normalization normalization;  // that the inputs went through
};
struct DepthLikelihood;
using Likelihood =
    std::variant<CategoricalLikelihood, BernoulliLikelihood, GaussianLikelihood, LearnedGaussianLikelihood,
                 HeteroscedasticLikelihood, PoissonLikelihood, StudentTLikelihood, VaeLikelihood, DepthLikelihood>;
/// Any of the others but VaeLikelihood, of a network whose depth is a latent variable (networks/adaptive_depth.h); see
/// latent.h. Predictions are those at the mode of q(depth).
struct DepthLikelihood {
  std::shared_ptr<const Likelihood> inner;
  std::int64_t depths = 1;  // L
};

/// categorical[:smoothing=E][,mixup=ALPHA] | bernoulli | gaussian:STDDEV | gaussian:learned | heteroscedastic | poisson
/// | student-t[:DOF[,SCALE]] | vae-bernoulli | vae-categorical[:LEVELS] | vae-gaussian[:STDDEV]. UserError where it
/// does not fit the examples.
Likelihood parse_likelihood(const std::string& spec, const ExampleSpec& examples);

/// Values that the module must give per example; one with latent variables adds what tells of these.
std::int64_t output_size(const Likelihood& likelihood);
/// Initial values of the likelihood's own parameters, which the Network is to append to every example's outputs: D for
/// gaussian:learned (noise of one), none for the others.
std::vector<double> initial_raw_scales(const Likelihood& likelihood);
/// Values per example that the likelihood reads: all those of the module and its own.
std::int64_t columns_read(const Likelihood& likelihood);
/// Targets per example, D; a class label is one.
std::int64_t target_columns(const Likelihood& likelihood);

/// The batch's targets as this likelihood wants them: labels int64 [B], or values [B, D] of type `dtype`.
/// DataError where a value is outside the likelihood's support.
torch::Tensor target_tensor(const Likelihood& likelihood, const Batch& batch, torch::Dtype dtype);

/// The batch's inputs, [B, input_shape...]. Bytes of images are scaled and normalised here, on a GPU after they crossed
/// to it. A copy, aligned as LibTorch aligns: the bits of a matrix product depend on alignment, and must not depend on
/// where the batch happens to lie.
torch::Tensor input_tensor(const Batch& batch, const ExampleSpec& spec, torch::Dtype dtype, torch::Device device);

/// A batch where the network can read it.
struct Examples {
  torch::Tensor inputs;   // [B, input_shape...]
  torch::Tensor targets;  // see target_tensor
};
/// Copies: the batch may change afterwards, page-locked pixels once the work given to the device so far is done.
Examples to_tensors(const Batch& batch, const ExampleSpec& spec, const Likelihood& likelihood, torch::Dtype dtype,
                    torch::Device device);

/// mixup (Zhang et al. 2018): every example becomes lambda times itself plus (1 - lambda) times another of the batch,
/// the one as far from its end as this from its begin, inputs and targets alike; one lambda ~ Beta(alpha, alpha) a
/// batch, a function of the stream. Nothing happens where the likelihood does not ask for it.
void mix_examples(const Likelihood& likelihood, const kernels::NoiseStream& stream, Examples& examples);
/// How training's likelihood differs from that of the data: "label smoothing", "mixup", both, or empty.
std::string describe_alteration(const Likelihood& likelihood);

/// Mean over the batch of -log p(target | outputs), nats per example (summed over an example's columns). Scalar [].
torch::Tensor mean_negative_log_likelihood(const Likelihood& likelihood, const torch::Tensor& outputs,
                                           const torch::Tensor& targets);

/// log p(target | outputs) of every example in the outputs' type, [B], with gradients: normalised densities, constants
/// included. Not of networks with latent variables.
torch::Tensor log_densities(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets);
/// The same in float64. Of a vae: log p(x, z) - log q(z | x) at the z drawn, of which log-mean-exp over draws is the
/// importance-weighted bound (Burda et al. 2016). Of adaptive depth: at the mode.
torch::Tensor log_likelihoods(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets);

/// What mean_negative_log_likelihood is the mean of, in float64, [B]: log_likelihoods() but for networks with latent
/// variables, where it is the bound on an example's log likelihood that is trained.
torch::Tensor expected_log_likelihoods(const Likelihood& likelihood, const torch::Tensor& outputs,
                                       const torch::Tensor& targets);

/// Class probabilities in float64, [B, C]; Bernoulli gives two columns. InternalError for the others.
torch::Tensor class_probabilities(const Likelihood& likelihood, const torch::Tensor& outputs);

/// Probabilities of 1 in float64, [B, D], of Bernoulli columns.
torch::Tensor flag_probabilities(const Likelihood& likelihood, const torch::Tensor& outputs);

/// How many of the batch's labels the outputs rank first; 0 where predictions are not classes.
std::int64_t count_correct(const Likelihood& likelihood, const torch::Tensor& outputs, const torch::Tensor& targets);

/// Whether predictions are classes (categorical, or one Bernoulli column).
bool is_classification(const Likelihood& likelihood);
/// Whether predictions are numbers: all but categorical, Bernoulli and vae.
bool is_regression(const Likelihood& likelihood);
/// Whether it tells of inputs, by latent variables drawn in each pass.
bool is_generative(const Likelihood& likelihood);

}  // namespace credence
