#pragma once

#include <set>
#include <string>

#include "credence/checkpoint/checkpoint.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"
#include "credence/priors/prior.h"

namespace credence {

// What an earlier run, or a network trained elsewhere, knows of the weights: as a prior, as where training starts.

/// Where a model's values come from.
struct ModelOrigin {
  bool restored = false;                   // from a run's checkpoint, which keeps the tensors of informed priors too
  const Checkpoint* checkpoint = nullptr;  // null on ranks to which broadcast_state() will send everything
};

/// Whose weights a posterior is of.
struct Weights {
  const Layout& network;
  int members = 1;  // of an ensemble
};

/// Puts the tensors behind checkpoint:FILE and weights:FILE into the rules; a new run reads the files. DataError where
/// a tensor that such a prior is for is missing or has another shape.
void inform_priors(TensorRules<Prior>& rules, const TensorRules<Family>& families, const Weights& weights,
                   const ModelOrigin& origin);

/// Means and, where both have them, scales of the tensors that have an informed prior, not inflated: inference goes on
/// from where it ended. Norm layers and their running statistics begin as in the same files. Returns the slots whose
/// scales it set. DataError names tensors of a state dict that the network does not have.
std::set<int> start_at_priors(Network& network, Posterior& posterior);

/// "FILE[,skip=REGEX]": means, scales, further arrays of the same posterior and prior, and buffers from a checkpoint or
/// a run directory, or means (and NAME.scale) and buffers from a state dict. Returns the slots whose scales it set.
/// DataError names tensors that one side lacks or that have other shapes, unless their names
/// match REGEX: those stay as they are.
std::set<int> start_at_file(const std::string& spec, Network& network, Posterior& posterior);

}  // namespace credence
