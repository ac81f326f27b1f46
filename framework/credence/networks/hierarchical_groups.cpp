#include "credence/networks/hierarchical_groups.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

constexpr std::int64_t kMostGroups = 100'000;

/// The part of a layer that groups add. All zero at first: groups begin alike.
struct DeviationImpl : torch::nn::Module {
  DeviationImpl(std::int64_t inputs, std::int64_t outputs, std::int64_t groups) {
    weight = register_parameter("weight", torch::zeros({outputs, inputs, groups}));
    bias = register_parameter("bias", torch::zeros({outputs, groups}));
  }
  torch::Tensor weight, bias;
};
TORCH_MODULE(Deviation);

}  // namespace

HierarchicalGroupsImpl::HierarchicalGroupsImpl(const Sizes& sizes) : sizes_(sizes) {
  std::int64_t previous = sizes.inputs - 1;
  std::vector<std::int64_t> widths = sizes.widths;
  widths.push_back(sizes.outputs);
  for (const std::int64_t width : widths) {
    Layer layer;
    const std::string name = "fc" + std::to_string(layers_.size() + 1);
    layer.shared = register_module(name, torch::nn::Linear(previous, width));
    if (layers_.size() >= sizes.shared_layers) {
      const Deviation deviation = layer.shared->register_module("deviation", Deviation(previous, width, sizes.groups));
      layer.weight = deviation->weight;
      layer.bias = deviation->bias;
    }
    layers_.push_back(std::move(layer));
    previous = width;
  }
}

void HierarchicalGroupsImpl::require_group(double value) const {
  if (value >= 0.0 && value < static_cast<double>(sizes_.groups) && value == std::floor(value)) return;
  throw DataError(
      fmt::format("an example's group is {}, and hierarchical-groups:{} knows the whole numbers 0 to {}; give as many "
                  "groups as the data have",
                  value, sizes_.groups, sizes_.groups - 1));
}

torch::Tensor HierarchicalGroupsImpl::forward(torch::Tensor x) {
  const torch::Tensor group = x.select(1, sizes_.group_column).to(torch::kCPU, torch::kFloat64).contiguous();
  const double* values = group.data_ptr<double>();
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(sizes_.groups), 0);
  for (std::int64_t i = 0; i < group.numel(); ++i) {
    require_group(values[i]);
    ++sizes[static_cast<std::size_t>(values[i])];
  }
  // Examples sorted by group: a matrix product for each.
  const torch::Tensor order = group.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false).to(x.device());
  const torch::Tensor features = torch::cat(
      {x.narrow(1, 0, sizes_.group_column), x.narrow(1, sizes_.group_column + 1, x.size(1) - sizes_.group_column - 1)},
      1);
  torch::Tensor hidden = features.index_select(0, order);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (layer.weight.defined()) {
      const auto parts = hidden.split_with_sizes(sizes);
      std::vector<torch::Tensor> outputs;
      for (std::size_t g = 0; g < parts.size(); ++g) {
        if (parts[g].size(0) == 0) continue;
        const auto index = static_cast<std::int64_t>(g);
        outputs.push_back(torch::linear(parts[g], layer.shared->weight + layer.weight.select(2, index),
                                        layer.shared->bias + layer.bias.select(1, index)));
      }
      hidden = torch::cat(outputs);
    } else {
      hidden = torch::linear(hidden, layer.shared->weight, layer.shared->bias);
    }
    if (i + 1 < layers_.size()) hidden = sizes_.nonlinearity == Nonlinearity::tanh ? hidden.tanh() : hidden.relu();
  }
  return hidden.index_select(0, order.argsort());
}

void require_known_groups(const torch::nn::Module& module, const DataSource& source) {
  const auto* groups = dynamic_cast<const HierarchicalGroupsImpl*>(&module);
  if (groups == nullptr) return;
  constexpr std::int64_t kChunk = 4096;
  Batch batch;
  for (std::int64_t first = 0; first < source.size(); first += kChunk) {
    std::vector<std::int64_t> indices(static_cast<std::size_t>(std::min(kChunk, source.size() - first)));
    std::iota(indices.begin(), indices.end(), first);
    source.read(indices, batch);
    const auto width = static_cast<std::size_t>(source.spec().input_elements());
    for (auto i = static_cast<std::size_t>(groups->group_column()); i < batch.inputs.size(); i += width) {
      groups->require_group(batch.inputs[i]);
    }
  }
}

torch::nn::AnyModule make_hierarchical_groups(const ModuleRequest& request) {
  const std::vector<std::string> parts = split(request.arguments, ',');
  require(!parts.empty(), "hierarchical-groups needs the number of groups, such as hierarchical-groups:10,20,20");
  HierarchicalGroupsImpl::Sizes sizes{
      .inputs = request.examples.input_elements(), .widths = {}, .outputs = request.outputs};
  sizes.groups = parse_integer(parts.front(), "G in hierarchical-groups:G");
  require(sizes.groups >= 1 && sizes.groups <= kMostGroups,
          "G in hierarchical-groups:G must be between 1 and {}, not {}", kMostGroups, parts.front());
  std::int64_t shared = 1;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    if (part == "relu" || part == "tanh") {
      sizes.nonlinearity = part == "tanh" ? Nonlinearity::tanh : Nonlinearity::relu;
    } else if (part.starts_with("shared=")) {
      shared = parse_integer(part.substr(7), "K in shared=K");
    } else {
      sizes.widths.push_back(parse_integer(part, "a width, relu, tanh or shared=K in hierarchical-groups:G,..."));
      require(sizes.widths.back() > 0 && sizes.widths.back() <= 1'000'000,
              "a layer of hierarchical-groups has between 1 and 1000000 units, not {}", part);
    }
  }
  const auto layers = static_cast<std::int64_t>(sizes.widths.size()) + 1;
  shared = std::min(shared, layers - 1);
  require(shared >= 0, "shared=K in hierarchical-groups:G,... must not be negative");
  sizes.shared_layers = static_cast<std::size_t>(shared);
  const auto& names = request.examples.feature_names;
  const auto column = std::find(names.begin(), names.end(), "group");
  require(column != names.end() && sizes.inputs > 1,
          "hierarchical-groups reads each example's group from an input column named 'group', and these data have "
          "none; name one so in a csv file, with whole numbers from 0 on");
  sizes.group_column = column - names.begin();
  HierarchicalGroups network(sizes);
  initialize(*network, sizes.nonlinearity, request.seed);
  const torch::NoGradGuard no_grad;
  for (auto& item : network->named_parameters()) {
    if (network->is_deviation(item.key())) item.value().zero_();
  }
  return torch::nn::AnyModule(network);
}

}  // namespace credence
