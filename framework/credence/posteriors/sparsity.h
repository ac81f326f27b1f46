#pragma once

#include <cstdint>
#include <vector>

#include "credence/posteriors/posterior.h"

namespace credence {

/// What pruning takes from the tensors whose posterior can say that a weight is not needed: of the family sparse those
/// with log(scale^2 / mean^2) > 3 (Molchanov et al. 2017, sec. 5), of spike-slab those whose inclusion probability is
/// below 1/2.
struct Sparsity {
  struct Tensor {
    int slot = 0;
    std::int64_t weights = 0, pruned = 0;
    bool is_matrix = false;  // two axes or more
  };
  std::vector<Tensor> tensors;  // empty where no tensor is of such a family

  double share() const;  // of pruned weights
  /// |W| / |W != 0| over matrices and filters, biases left out, as the paper counts it.
  double compression() const;
};
Sparsity measure_sparsity(const Posterior& posterior);

/// The same, and the pruned weights are zero in the means from now on, and in all draws (of sparse to within
/// a scale of 1e-15).
Sparsity prune(Posterior& posterior);

}  // namespace credence
