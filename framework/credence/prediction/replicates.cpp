#include "credence/prediction/replicates.h"

#include "credence/base/errors.h"
#include "credence/likelihoods/observation.h"

namespace credence {
namespace {

torch::Tensor on_host(const torch::Tensor& tensor) {
  return tensor.to(torch::kCPU, torch::kFloat64).contiguous();
}

/// By inversion: the class in whose part of [0, 1) the uniform number falls.
std::vector<double> replicate_labels(const torch::Tensor& probabilities, const kernels::NoiseStream& stream,
                                     std::int64_t element) {
  const std::int64_t classes = probabilities.size(1);
  const double* row = probabilities.data_ptr<double>();
  std::vector<double> labels(static_cast<std::size_t>(probabilities.size(0)));
  for (double& label : labels) {
    const double u = uniform(stream, element++);
    std::int64_t chosen = 0;
    for (double sum = row[0]; sum <= u && chosen + 1 < classes; sum += row[chosen]) ++chosen;
    label = static_cast<double>(chosen);
    row += classes;
  }
  return labels;
}

}  // namespace

std::vector<double> replicate_targets(const Likelihood& likelihood, const torch::Tensor& outputs,
                                      const ReplicateKey& key) {
  // Weight draws use step 0 of this purpose, what else a module draws step 1.
  const kernels::NoiseStream stream{.seed = key.seed,
                                    .purpose = kernels::Purpose::prediction,
                                    .step = 2,
                                    .sample = static_cast<std::uint32_t>(key.replicate)};
  if (is_classification(likelihood)) {
    return replicate_labels(on_host(class_probabilities(likelihood, outputs)), stream, key.example);
  }
  const std::int64_t columns = target_columns(likelihood);
  std::vector<double> values(static_cast<std::size_t>(outputs.size(0) * columns));
  std::int64_t element = key.example * columns;
  if (!is_regression(likelihood)) {  // several Bernoulli columns
    const torch::Tensor probabilities = on_host(flag_probabilities(likelihood, outputs));
    const double* p = probabilities.data_ptr<double>();
    for (double& value : values) value = uniform(stream, element++) < *p++ ? 1.0 : 0.0;
    return values;
  }
  const ObservationModel model(likelihood);
  const auto tensors = model.of(outputs);
  const torch::Tensor location = on_host(tensors.location);
  const torch::Tensor scale = on_host(tensors.scale);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = model.sample({location.data_ptr<double>()[i], scale.data_ptr<double>()[i]}, stream, element++);
  }
  return values;
}

}  // namespace credence
