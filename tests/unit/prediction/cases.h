#pragma once

#include <torch/torch.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "credence/communication/factory.h"
#include "credence/data/memory_source.h"
#include "credence/networks/zoo.h"
#include "credence/prediction/evaluate.h"
#include "credence/priors/prior.h"

namespace credence::test {

/// Made-up examples whose inputs spread over a few units; labels follow no rule. classes = 0: `columns` real targets.
inline MemoryData made_up_data(std::vector<std::int64_t> input_shape, std::int64_t classes, std::int64_t examples,
                               std::int64_t columns = 1) {
  MemoryData data;
  data.spec.input_shape = std::move(input_shape);
  data.spec.classes = classes;
  data.spec.target_size = classes == 0 ? columns : 0;
  for (std::int64_t i = 0; i < examples * data.spec.input_elements(); ++i) {
    data.inputs.push_back(static_cast<float>(2.0 * std::sin(1.7 * static_cast<double>(i * i % 1009))));
  }
  for (std::int64_t i = 0; i < examples && classes > 0; ++i) data.labels.push_back(i * i % 7 % classes);
  for (std::int64_t i = 0; i < examples * columns && classes == 0; ++i) {
    data.targets.push_back(static_cast<float>(std::cos(static_cast<double>(i))));
  }
  return data;
}

struct ModelOptions {
  std::string posterior = "mean-field";
  double initial_scale = 0.3;
  double prior_scale = 1.0;
  torch::Dtype dtype = torch::kFloat32;
};

/// A network of the zoo with a posterior around its initial weights.
struct Model {
  using Options = ModelOptions;
  Model(const std::string& network_spec, const std::string& likelihood_spec, const ExampleSpec& examples,
        const Options& options = {})
      : likelihood(parse_likelihood(likelihood_spec, examples)),
        network(build_module(network_spec, examples, output_size(likelihood), 3), options.dtype, torch::kCPU,
                initial_raw_scales(likelihood)),
        posterior(plan_posterior(network.layout(), parse_families({options.posterior}),
                                 TensorRules<Prior>{NormalPrior{options.prior_scale}, {}, {}}),
                  network.values(), options.initial_scale, 1) {
    network.bind(posterior.weights());
  }

  EvaluationParts parts(const DataSource& source, Communicator& communicator) {
    return {.network = network,
            .posterior = posterior,
            .likelihood = likelihood,
            .source = source,
            .communicator = communicator,
            .ood = nullptr,
            .training = nullptr};
  }

  Likelihood likelihood;
  Network network;
  Posterior posterior;
};

}  // namespace credence::test
