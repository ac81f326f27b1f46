// What a checkpoint holds of a run, by the names that it has there: shared by saving and restoring.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "credence/base/array.h"
#include "credence/base/dtype.h"
#include "credence/optimizers/optimizer.h"
#include "credence/posteriors/posterior.h"

namespace credence {

DType dtype_of_tensor(const torch::Tensor& tensor);

/// A tensor as files hold it and ranks send it, contiguous and on the host: integers of every size, and bools, as
/// int64.
torch::Tensor stored_tensor(const torch::Tensor& buffer);

/// One named part of an arena.
struct ArenaPart {
  std::string name;
  torch::Tensor arena;
  const Slot* slot;
};

/// Every part of the posterior's and, unless null, the optimizer's arenas, as stored: raw values, not the derived
/// scale.
std::vector<ArenaPart> arena_parts(const Posterior& posterior, const Optimizer* optimizer);

/// The elements of a contiguous host tensor from `offset` on.
ArrayView view_of(const std::string& name, const torch::Tensor& host, const std::vector<std::int64_t>& shape,
                  std::int64_t offset);

/// What informed priors know of the network's tensors: a checkpoint needs no other file.
struct PriorTensor {
  std::string path;
  torch::Tensor values;
};

std::vector<PriorTensor> prior_tensors(const PosteriorPlan& plan);

}  // namespace credence
