#include "credence/estimators/curvature.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "credence/base/errors.h"

namespace credence {
namespace {

namespace ad = torch::autograd;

constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 25;  // of gradients of single examples

struct Convolution {
  std::vector<std::int64_t> kernel, stride, padding, dilation;
};

std::vector<std::int64_t> to_integers(const std::vector<c10::SymInt>& sizes) {
  std::vector<std::int64_t> result;
  for (const c10::SymInt& size : sizes) result.push_back(size.expect_int());
  return result;
}

/// The parameter that an edge of the graph leads to, itself or transposed; null where it leads elsewhere.
const c10::TensorImpl* parameter_behind(const ad::Edge& edge, bool transposed) {
  const ad::Node* node = edge.function.get();
  if (transposed) {
    if (dynamic_cast<const ad::generated::TBackward0*>(node) == nullptr) return nullptr;
    node = node->next_edge(0).function.get();
  }
  const auto* leaf = dynamic_cast<const ad::AccumulateGrad*>(node);
  return leaf == nullptr ? nullptr : leaf->variable.unsafeGetTensorImpl();
}

/// What a layer's node of the graph tells.
struct Layer {
  const c10::TensorImpl* weight = nullptr;  // null where it is no parameter
  const c10::TensorImpl* bias = nullptr;
  torch::Tensor input;                     // [B, in], or [B, channels, H, W]; undefined without weight
  std::optional<Convolution> convolution;  // else Linear
};

/// Linear and Conv2d over `examples` rows; others are not read.
std::optional<Layer> read_layer(ad::Node& node, std::int64_t examples) {
  Layer layer;
  if (auto* linear = dynamic_cast<ad::generated::AddmmBackward0*>(&node)) {
    if (linear->alpha.toDouble() != 1.0 || linear->beta.toDouble() != 1.0) return std::nullopt;
    layer.bias = parameter_behind(node.next_edge(0), false);
    layer.weight = parameter_behind(node.next_edge(2), true);
    if (layer.weight != nullptr) layer.input = linear->mat1_.unpack();
  } else if (auto* product = dynamic_cast<ad::generated::MmBackward0*>(&node)) {
    layer.weight = parameter_behind(node.next_edge(1), true);
    if (layer.weight != nullptr) layer.input = product->self_.unpack();
  } else if (auto* convolution = dynamic_cast<ad::generated::ConvolutionBackward0*>(&node)) {
    if (convolution->transposed || convolution->groups.expect_int() != 1 || convolution->stride.size() != 2) {
      return std::nullopt;
    }
    layer.weight = parameter_behind(node.next_edge(1), false);
    layer.bias = parameter_behind(node.next_edge(2), false);
    layer.convolution = {
        {}, to_integers(convolution->stride), to_integers(convolution->padding), to_integers(convolution->dilation)};
    if (layer.weight != nullptr) {
      layer.input = convolution->input_.unpack();
      layer.convolution->kernel = convolution->weight_.unpack().sizes().slice(2).vec();
    }
  } else {
    return std::nullopt;
  }
  const auto rows = node.input_metadata(0).shape_as_dim_vector();
  if (rows.empty() || rows[0] != examples) return std::nullopt;
  return layer;
}

std::vector<std::shared_ptr<ad::Node>> nodes_of(const torch::Tensor& outputs) {
  std::vector<std::shared_ptr<ad::Node>> nodes;
  std::set<const ad::Node*> seen;
  std::vector<std::shared_ptr<ad::Node>> waiting = {outputs.grad_fn()};
  while (!waiting.empty()) {
    std::shared_ptr<ad::Node> node = std::move(waiting.back());
    waiting.pop_back();
    if (node == nullptr || !seen.insert(node.get()).second) continue;
    for (const ad::Edge& edge : node->next_edges()) waiting.push_back(edge.function);
    nodes.push_back(std::move(node));
  }
  return nodes;
}

}  // namespace

std::vector<torch::Tensor> hessian_root(const Likelihood& likelihood, const torch::Tensor& outputs) {
  std::vector<torch::Tensor> root;
  const auto unit_columns = [&](const torch::Tensor& lengths) {
    for (std::int64_t k = 0; k < lengths.size(1); ++k) {
      root.push_back(torch::zeros_like(outputs));
      root.back().select(1, k).copy_(lengths.select(1, k));
    }
  };
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) {
    // diag(p) - p p' = sum over k of p_k (e_k - p) (e_k - p)'.
    const torch::Tensor p = torch::softmax(outputs, 1);
    for (std::int64_t k = 0; k < p.size(1); ++k) {
      torch::Tensor column = -p;
      column.select(1, k).add_(1.0);
      root.push_back(column * p.narrow(1, k, 1).sqrt());
    }
  } else if (std::holds_alternative<BernoulliLikelihood>(likelihood)) {
    unit_columns((torch::sigmoid(outputs) * torch::sigmoid(-outputs)).sqrt());
  } else if (const auto* gaussian = std::get_if<GaussianLikelihood>(&likelihood)) {
    unit_columns(torch::full_like(outputs, 1.0 / gaussian->scale));
  } else if (const auto* learned = std::get_if<LearnedGaussianLikelihood>(&likelihood)) {
    unit_columns(torch::softplus(outputs.narrow(1, learned->columns, learned->columns)).reciprocal());
  } else if (std::holds_alternative<PoissonLikelihood>(likelihood)) {
    unit_columns((outputs * 0.5).exp());
  } else {
    throw UserError(
        "the posterior laplace needs the likelihood categorical, bernoulli, gaussian or poisson; use one of them, or "
        "--posterior swag");
  }
  return root;
}

struct Curvature::Use {
  std::size_t layer = 0;  // of the block's
  bool is_bias = false;
  torch::Tensor input;                     // of the layer; undefined for a bias
  std::optional<Convolution> convolution;  // else Linear

  /// Gradients of single examples [b, count] of the `examples` from `first` on; `outward`: those at the layer's output.
  torch::Tensor gradients(const torch::Tensor& outward, std::int64_t first, std::int64_t examples) const {
    const torch::Tensor out = outward.narrow(0, first, examples);
    if (is_bias) return convolution ? out.flatten(2).sum(2) : out;
    const torch::Tensor in = input.narrow(0, first, examples);
    if (!convolution) return (out.unsqueeze(2) * in.unsqueeze(1)).flatten(1);
    const torch::Tensor patches =  // [b, inputs of a unit, positions]
        torch::im2col(in, convolution->kernel, convolution->dilation, convolution->padding, convolution->stride);
    return torch::bmm(out.flatten(2), patches.transpose(1, 2)).flatten(1);
  }

  /// Sum over examples of their squares [count].
  torch::Tensor squares(const torch::Tensor& outward, std::int64_t count) const {
    if (!convolution && !is_bias) return torch::mm(outward.square().t(), input.square()).flatten();
    const std::int64_t examples = outward.size(0);
    const std::int64_t units = outward.size(1);
    const std::int64_t positions = outward.numel() / examples / units;
    const std::int64_t at_once =
        std::clamp(kElementsAtOnce / (count + count / units * positions), std::int64_t{1}, examples);
    torch::Tensor sum = torch::zeros({count}, outward.options().dtype(torch::kFloat64));
    for (std::int64_t first = 0; first < examples; first += at_once) {
      sum.add_(gradients(outward, first, std::min(at_once, examples - first)).square().sum(0));
    }
    return sum;
  }
};

struct Curvature::Block {
  torch::Tensor outputs;
  ad::edge_list layers;                 // the outputs of layers that parameters enter
  std::map<std::size_t, Use> uses;      // by place among the slots
  std::vector<std::size_t> one_by_one;  // the other places

  /// Gradients at the layers' outputs of the sum of `column` times the network's outputs.
  std::vector<torch::Tensor> outward(const torch::Tensor& column) const {
    if (layers.empty()) return {};
    return ad::Engine::get_default_engine().execute({ad::impl::gradient_edge(outputs)}, {column}, /*keep_graph=*/true,
                                                    /*create_graph=*/false, /*accumulate_grad=*/false, layers);
  }
};

Curvature::Curvature(Network& network, const Likelihood& likelihood, std::vector<int> slots)
    : network_(network), likelihood_(likelihood), slots_(std::move(slots)) {
  for (const int slot : slots_) {
    first_.push_back(weights_);
    weights_ += network.layout().slots[static_cast<std::size_t>(slot)].count;
  }
}

Curvature::Block Curvature::run(const torch::Tensor& inputs) {
  Block block;
  block.outputs = network_.forward(inputs);
  std::map<const c10::TensorImpl*, std::size_t> place_of;
  for (std::size_t place = 0; place < slots_.size(); ++place) {
    place_of[network_.parameters()[static_cast<std::size_t>(slots_[place])].unsafeGetTensorImpl()] = place;
  }
  std::map<std::size_t, int> mentions, readings;
  for (const auto& node : nodes_of(block.outputs)) {
    for (const ad::Edge& edge : node->next_edges()) {
      const auto place = place_of.find(parameter_behind(edge, false));
      if (place != place_of.end()) ++mentions[place->second];
    }
    const auto layer = read_layer(*node, inputs.size(0));
    if (!layer) continue;
    const auto use_as = [&](const c10::TensorImpl* parameter, bool is_bias) {
      const auto place = place_of.find(parameter);
      if (place == place_of.end()) return;
      ++readings[place->second];
      block.uses[place->second] = {block.layers.size(), is_bias, is_bias ? torch::Tensor() : layer->input,
                                   layer->convolution};
    };
    use_as(layer->weight, false);
    use_as(layer->bias, true);
    block.layers.emplace_back(node, 0);
  }
  for (std::size_t place = 0; place < slots_.size(); ++place) {
    if (readings[place] == 1 && mentions[place] == 1) continue;  // else shared, or in a layer of another kind
    block.uses.erase(place);
    block.one_by_one.push_back(place);
  }
  slow_tensors_.clear();
  for (const std::size_t place : block.one_by_one) {
    slow_tensors_.push_back(network_.layout().slots[static_cast<std::size_t>(slots_[place])].name);
  }
  return block;
}

void Curvature::add_diagonal_one_by_one(const torch::Tensor& inputs, const std::vector<std::size_t>& places,
                                        const torch::Tensor& sum) {
  std::vector<torch::Tensor> parameters;
  for (const std::size_t place : places) {
    parameters.push_back(network_.parameters()[static_cast<std::size_t>(slots_[place])]);
  }
  for (std::int64_t example = 0; example < inputs.size(0); ++example) {
    const torch::Tensor outputs = network_.forward(inputs.narrow(0, example, 1));
    for (const torch::Tensor& column : hessian_root(likelihood_, outputs.detach())) {
      const auto gradients = ad::grad({outputs}, parameters, {column}, /*retain_graph=*/true, /*create_graph=*/false,
                                      /*allow_unused=*/true);
      for (std::size_t i = 0; i < places.size(); ++i) {
        if (!gradients[i].defined()) continue;
        sum.narrow(0, first_[places[i]], gradients[i].numel()).add_(gradients[i].flatten().square());
      }
    }
  }
}

torch::Tensor Curvature::add_diagonal(const torch::Tensor& inputs, const torch::Tensor& sum) {
  const torch::AutoGradMode with_gradients(true);
  const Block block = run(inputs);
  for (const torch::Tensor& column : hessian_root(likelihood_, block.outputs.detach())) {
    const std::vector<torch::Tensor> outward = block.outward(column);
    const torch::NoGradGuard no_grad;
    for (const auto& [place, use] : block.uses) {
      const std::int64_t count = network_.layout().slots[static_cast<std::size_t>(slots_[place])].count;
      sum.narrow(0, first_[place], count).add_(use.squares(outward[use.layer], count));
    }
  }
  if (!block.one_by_one.empty()) add_diagonal_one_by_one(inputs, block.one_by_one, sum);
  return block.outputs.detach();
}

torch::Tensor Curvature::add_matrix(const torch::Tensor& inputs, const torch::Tensor& sum) {
  const torch::AutoGradMode with_gradients(true);
  const Block block = run(inputs);
  require(block.one_by_one.empty(),
          "the whole curvature of {} cannot be had: it is not the parameter of one Linear layer that reads one row for "
          "each example; use the posterior laplace for it",
          slow_tensors_.empty() ? std::string() : slow_tensors_.front());
  for (const torch::Tensor& column : hessian_root(likelihood_, block.outputs.detach())) {
    const std::vector<torch::Tensor> outward = block.outward(column);
    const torch::NoGradGuard no_grad;
    std::vector<torch::Tensor> rows;  // [B, count] of each slot
    for (const auto& [place, use] : block.uses) rows.push_back(use.gradients(outward[use.layer], 0, inputs.size(0)));
    const torch::Tensor jacobian = torch::cat(rows, 1);
    sum.add_(torch::mm(jacobian.t(), jacobian));
  }
  return block.outputs.detach();
}

}  // namespace credence
