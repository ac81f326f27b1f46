#pragma once

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

/// Puts the tensors behind checkpoint:FILE and weights:FILE into the rules; a new run reads the files. UserError where
/// a tensor that such a prior is for is missing or has another shape.
void inform_priors(TensorRules<Prior>& rules, const Layout& network, int members, const ModelOrigin& origin);

/// Means and, where both have them, scales of the tensors that have an informed prior, not inflated: inference goes on
/// from where it ended.
void start_at_priors(Posterior& posterior);

/// Means, scales and buffers from a checkpoint, or means (and NAME.scale) from a safetensors file, for tensors of equal
/// name and shape; others stay as they are and are named in the log. UserError where none fits.
void start_at_file(const std::string& file, Network& network, Posterior& posterior);

}  // namespace credence
