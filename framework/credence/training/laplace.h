#pragma once

#include <torch/torch.h>

#include <map>
#include <string>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"

namespace credence {

/// The evidence of a Gaussian around the mode w, as a function of a factor that multiplies the prior's precisions
/// (MacKay 1992, "A practical Bayesian framework for backpropagation networks"; Immer et al. 2021).
struct LaplaceEvidence {
  double log_likelihood = 0.0;  // of the training set at the mode, nats
  torch::Tensor curvatures;     // float64 [weights]: eigenvalues of the likelihood's curvature in units of the prior's
  double squares = 0.0;         // sum of w^2 in the same units

  /// log p(D), nats. Exact where the likelihood is Gaussian in the weights and the mode that under the same factor.
  double log_evidence(double factor) const;
  /// The factor that maximises it, between 1e-12 and 1e12: there is one maximum.
  double best_factor() const;
};

struct LaplaceOptions {
  double prior_weight = 1.0;  // multiplies the prior's precisions, as --kl-weight does in what training minimised
  bool fit_precision = true;  // multiply the prior's precisions by the best factor; else by one
  int parts = 1;              // of the training set, summed one by one and then in a tree: a multiple of the ranks
  bool stage_through_host = false;  // weights on a GPU, communicator in host memory
};

struct LaplaceParts {
  Network& network;
  Posterior& posterior;
  const Likelihood& likelihood;
  const DataSource& source;  // the training set, not augmented
  Communicator& communicator;
};

/// Fills the kept arrays of a posterior with tensors of the family laplace from the curvature at the present means, as
/// these are: sum over the training set of the generalised Gauss-Newton matrix (its diagonal, or all of the last layer)
/// plus the prior's precision times its weight, which factors are relative to. Returns numbers for the checkpoint:
/// log_evidence, log_evidence_at_prior (factor one) and prior_precision_factor, of an ensemble the mean over members.
/// Same bits for any number of ranks that divides `parts` where the communicator reduces in a tree. Collective.
std::map<std::string, double> fit_laplace(const LaplaceParts& parts, const LaplaceOptions& options);

}  // namespace credence
