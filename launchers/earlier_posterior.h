#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "credence/checkpoint/checkpoint.h"
#include "credence/posteriors/posterior.h"
#include "tensor_file.h"

namespace credence {

// What another run's checkpoint says beyond a mean and a scale for each weight.

/// Each weight of a tensor by itself; float64, in the tensor's shape. Undefined where the file has no distribution over
/// it, or in another shape.
struct Marginals {
  torch::Tensor mean, scale;
  std::string left_out;  // the family whose correlations these are without
};

/// Exact means and standard deviations of families whose weights are Gaussian one by one, or whose moments are known
/// (swag). UserError for other families, with the way out.
Marginals marginals_in(const Checkpoint& checkpoint, const std::string& tensor, at::IntArrayRef shape);

/// Copies the arrays beyond mean and scale that `file` holds of the posterior's tensors and that have the same name and
/// shape there; `skipped` by name of the tensor. Returns the names of those that have no place.
std::vector<std::string> copy_further_arrays(const TensorFile& file, Posterior& posterior,
                                             const std::function<bool(const std::string&)>& skipped);

}  // namespace credence
