#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "credence/data/data_source.h"
#include "credence/networks/initialization.h"
#include "credence/networks/latent_model.h"

namespace credence {

/// A fully connected network for each of G groups of examples. The first layers are common to all; in the others
/// a group's weights are the shared ones plus its own deviations, which a prior N(0, tau^2) draws: so the group's
/// weights are N(shared, tau^2) around weights that are learned (a hierarchical model, not centred). The group is one
/// of the inputs, a whole number from 0 on.
class HierarchicalGroupsImpl final : public torch::nn::Module, public LatentModel {
 public:
  struct Sizes {
    std::int64_t groups = 1;
    std::int64_t inputs = 1;  // the group among them
    std::int64_t group_column = 0;
    std::vector<std::int64_t> widths = {};  // of the hidden layers
    std::int64_t outputs = 1;
    std::size_t shared_layers = 1;
    Nonlinearity nonlinearity = Nonlinearity::relu;
  };
  explicit HierarchicalGroupsImpl(const Sizes& sizes);

  /// [B, inputs] -> [B, outputs]. DataError where a group is none of the G.
  torch::Tensor forward(torch::Tensor x);

  /// DataError unless the value is one of the G groups.
  void require_group(double value) const;
  std::int64_t group_column() const { return sizes_.group_column; }

  bool is_deviation(const std::string& parameter) const override {
    return parameter.find(".deviation.") != std::string::npos;
  }

 private:
  struct Layer {
    torch::nn::Linear shared{nullptr};
    torch::Tensor weight, bias;  // deviations [out, in, G] and [out, G]; undefined in a layer common to all
  };
  Sizes sizes_;
  std::vector<Layer> layers_;
};
TORCH_MODULE(HierarchicalGroups);

/// DataError where the module is a HierarchicalGroups and an example is of no group it knows. Reads all examples.
void require_known_groups(const torch::nn::Module& module, const DataSource& source);

}  // namespace credence
