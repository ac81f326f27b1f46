#include "credence/networks/adaptive_depth.h"

#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

constexpr std::int64_t kGateWidth = 32;
constexpr std::int64_t kMostDepths = 1000;

void normalize(std::vector<double>& log_p) {
  double sum = 0.0;
  for (const double value : log_p) sum += std::exp(value);
  for (double& value : log_p) value -= std::log(sum);
}

/// uniform | poisson:RATE (of the depth, truncated to 1 ... L) | geometric:P (of stopping after each block).
std::vector<double> parse_depth_prior(const std::string& spec, std::int64_t depths) {
  const Spec parsed = parse_spec(spec);
  std::vector<double> log_p(static_cast<std::size_t>(depths), 0.0);
  if (parsed.name == "poisson") {
    const double rate = parse_number(parsed.arguments, "RATE in prior=poisson:RATE");
    require(rate > 0.0 && rate <= 1e6, "RATE in prior=poisson:RATE must be positive, not {}", parsed.arguments);
    for (std::size_t l = 1; l < log_p.size(); ++l) {
      log_p[l] = log_p[l - 1] + std::log(rate) - std::log(static_cast<double>(l + 1));
    }
    const double largest = *std::max_element(log_p.begin(), log_p.end());
    for (double& value : log_p) value -= largest;
  } else if (parsed.name == "geometric") {
    const double p = parse_number(parsed.arguments, "P in prior=geometric:P");
    require(p > 0.0 && p < 1.0, "P in prior=geometric:P must lie between 0 and 1, not {}", parsed.arguments);
    for (std::size_t l = 1; l < log_p.size(); ++l) log_p[l] = log_p[l - 1] + std::log1p(-p);
  } else {
    const std::vector<std::string> known = {"uniform", "poisson", "geometric"};
    if (parsed.name != known[0]) refuse_unknown("prior of the depth", parsed.name, known);
    require(parsed.arguments.empty(), "the depth's prior uniform takes no arguments, not '{}'", parsed.arguments);
  }
  normalize(log_p);
  return log_p;
}

}  // namespace

AdaptiveDepthImpl::AdaptiveDepthImpl(const Sizes& sizes) : log_prior_(sizes.log_prior), outputs_(sizes.outputs) {
  using Shape = torch::nn::LinearOptions;
  input_ = register_module("input", Linear(Shape(sizes.inputs, sizes.width)));
  for (std::int64_t l = 1; l <= depths(); ++l) {
    const std::string name = "block" + std::to_string(l);
    first_.push_back(register_module(name + "_fc1", Linear(Shape(sizes.width, sizes.width))));
    second_.push_back(register_module(name + "_fc2", Linear(Shape(sizes.width, sizes.width))));
    heads_.push_back(register_module("head" + std::to_string(l), Linear(Shape(sizes.width, sizes.outputs))));
  }
  if (sizes.per_input) {
    gate_ = register_module("gate", torch::nn::Sequential(Linear(Shape(sizes.inputs, kGateWidth)), torch::nn::ReLU(),
                                                          Linear(Shape(kGateWidth, depths()))));
  } else {
    depth_logits_ = register_parameter("depth_logits", torch::zeros({depths()}));
  }
}

std::vector<double> AdaptiveDepthImpl::categorical_log_prior(const std::string& parameter) const {
  return parameter == "depth_logits" ? log_prior_ : std::vector<double>{};
}

torch::Tensor AdaptiveDepthImpl::log_q(const torch::Tensor& x) {
  // Both parameterisations begin at the prior.
  const torch::Tensor prior = torch::tensor(log_prior_, torch::kFloat64).to(x.device(), x.scalar_type());
  if (gate_) return torch::log_softmax(gate_->forward(x) + prior, 1);
  return torch::log_softmax(depth_logits_, 0).expand({x.size(0), depths()});
}

torch::Tensor AdaptiveDepthImpl::block(std::size_t index, const torch::Tensor& hidden) {
  return hidden + second_[index](first_[index](hidden.relu()).relu_());
}

std::vector<torch::Tensor> AdaptiveDepthImpl::outputs_to_mode(torch::Tensor hidden, const torch::Tensor& log_q) {
  const torch::Tensor mode = log_q.argmax(1);  // blocks beyond the first
  torch::Tensor rows = torch::arange(mode.size(0), mode.options());
  std::vector<torch::Tensor> outputs;
  for (std::int64_t l = 0; l < depths(); ++l) {
    outputs.push_back(torch::zeros({mode.size(0), outputs_}, hidden.options()));
    const torch::Tensor goes_on = mode.index_select(0, rows).ge(l).nonzero().squeeze(1);
    if (goes_on.numel() == 0) continue;
    if (goes_on.numel() < rows.numel()) {
      rows = rows.index_select(0, goes_on);
      hidden = hidden.index_select(0, goes_on);
    }
    const auto index = static_cast<std::size_t>(l);
    hidden = block(index, hidden);
    outputs.back().index_copy_(0, rows, heads_[index](hidden.relu()));
  }
  return outputs;
}

torch::Tensor AdaptiveDepthImpl::forward(torch::Tensor x) {
  x = x.flatten(1);
  const torch::Tensor depth = log_q(x);
  torch::Tensor hidden = input_(x);
  std::vector<torch::Tensor> columns;
  if (!is_training() && halts_) {
    columns = outputs_to_mode(hidden, depth);
  } else {
    for (std::size_t l = 0; l < heads_.size(); ++l) {
      hidden = block(l, hidden);
      columns.push_back(heads_[l](hidden.relu()));
    }
  }
  columns.push_back(depth);
  if (gate_) {
    const torch::Tensor prior = torch::tensor(log_prior_, torch::kFloat64).to(x.device(), x.scalar_type());
    columns.push_back((depth.exp() * (depth - prior)).sum(1, /*keepdim=*/true));
  } else {
    columns.push_back(torch::zeros({x.size(0), 1}, depth.options()));
  }
  return torch::cat(columns, 1);
}

torch::nn::AnyModule make_adaptive_depth(const ModuleRequest& request) {
  const std::vector<std::string> parts = split(request.arguments, ',');
  require(!parts.empty(), "adaptive-depth needs the largest number of blocks, such as adaptive-depth:8,width=64");
  const std::int64_t depths = parse_integer(parts.front(), "L in adaptive-depth:L");
  require(depths >= 1 && depths <= kMostDepths, "L in adaptive-depth:L must be between 1 and {}, not {}", kMostDepths,
          parts.front());
  AdaptiveDepthImpl::Sizes sizes{.inputs = request.examples.input_elements(), .width = 64, .outputs = request.outputs};
  std::string prior = "uniform";
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    if (part == "input") {
      sizes.per_input = true;
    } else if (part.starts_with("prior=")) {
      prior = part.substr(6);
    } else {
      require(part.starts_with("width="),
              "adaptive-depth:L takes width=W, prior=uniform|poisson:RATE|geometric:P and input, not '{}'", part);
      sizes.width = parse_integer(part.substr(6), "W in width=W");
      require(sizes.width >= 1 && sizes.width <= 1'000'000, "W in width=W must be between 1 and 1000000, not {}",
              sizes.width);
    }
  }
  sizes.log_prior = parse_depth_prior(prior, depths);
  AdaptiveDepth network(sizes);
  initialize(*network, Nonlinearity::relu, request.seed);
  const torch::NoGradGuard no_grad;
  for (auto& item : network->named_parameters()) {
    if (item.key() == "depth_logits") item.value().copy_(torch::tensor(sizes.log_prior));
    // A gate that begins with 0 begins at the prior for every input.
    if (item.key().starts_with("gate.2.")) item.value().zero_();
  }
  return torch::nn::AnyModule(network);
}

}  // namespace credence
