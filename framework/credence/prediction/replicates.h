#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "credence/likelihoods/likelihood.h"

namespace credence {

/// Which replicated targets: noise is a function of (seed, replicate, example).
struct ReplicateKey {
  std::uint64_t seed = 0;    // of the run
  int replicate = 0;         // counted from 0
  std::int64_t example = 0;  // the first of the block, counted in its dataset
};

/// Targets drawn from p(y | outputs), one set for the block: labels [b], or values [b, D] row by row.
std::vector<double> replicate_targets(const Likelihood& likelihood, const torch::Tensor& outputs,
                                      const ReplicateKey& key);

}  // namespace credence
