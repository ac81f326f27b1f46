#include "credence/networks/norm.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/sync_norm.h"

namespace credence {
namespace {

constexpr std::int64_t kGroups = 32;
constexpr double kResponseEpsilon = 1e-6;  // Singh and Krishnan 2020, sec. 3.1

struct BatchNormLayer final : torch::nn::BatchNorm2dImpl, NormLayer {
  explicit BatchNormLayer(std::int64_t channels) : torch::nn::BatchNorm2dImpl(channels) {}
  torch::Tensor normalize(const torch::Tensor& x) override { return forward(x).to(x.scalar_type()); }
  void zero_scale() override { weight.zero_(); }
};

struct GroupNormLayer final : torch::nn::GroupNormImpl, NormLayer {
  explicit GroupNormLayer(std::int64_t channels)
      : torch::nn::GroupNormImpl(std::gcd(channels, std::clamp<std::int64_t>(channels / 2, 1, kGroups)), channels) {}
  torch::Tensor normalize(const torch::Tensor& x) override { return forward(x).to(x.scalar_type()); }
  void zero_scale() override { weight.zero_(); }
};

/// y = weight x / sqrt(mean of x^2 over positions + epsilon) + bias, each example and channel by itself; then
/// max(y, threshold).
struct FilterResponseNorm final : torch::nn::Module, NormLayer {
  FilterResponseNorm(std::int64_t channels, bool activates)
      : weight(register_parameter("weight", torch::ones({channels}))),
        bias(register_parameter("bias", torch::zeros({channels}))) {
    if (activates) threshold = register_parameter("threshold", torch::zeros({channels}));
  }

  torch::Tensor normalize(const torch::Tensor& input) override {
    const torch::Tensor x = input.to(weight.scalar_type());  // bfloat16 under --precision bf16
    const torch::Tensor response = x.square().mean({2, 3}, /*keepdim=*/true) + kResponseEpsilon;
    return torch::addcmul(by_channel(bias), x, response.rsqrt() * by_channel(weight)).to(input.scalar_type());
  }
  torch::Tensor activate(torch::Tensor x) override {
    return torch::maximum(x, by_channel(threshold).to(x.scalar_type()));
  }
  void zero_scale() override { weight.zero_(); }

  static torch::Tensor by_channel(const torch::Tensor& values) { return values.view({1, -1, 1, 1}); }
  torch::Tensor weight, bias, threshold;
};

struct NoNorm final : torch::nn::Module, NormLayer {
  torch::Tensor normalize(const torch::Tensor& x) override { return x; }
  torch::Tensor activate(torch::Tensor x) override { return x.relu(); }  // x may be a block's input
  void zero_scale() override {}
};

template <class Layer>
NormLayer* add(torch::nn::Module& parent, const std::string& name, std::shared_ptr<Layer> layer) {
  parent.register_module(name, layer);
  return layer.get();
}

}  // namespace

std::optional<Norm> parse_norm(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const std::vector<std::string> known = {"batch", "sync", "group", "frn", "none"};
  const auto found = std::find(known.begin(), known.end(), name);
  if (found == known.end()) refuse_unknown("norm", name, known);
  return static_cast<Norm>(found - known.begin());
}

NormLayer* add_norm(torch::nn::Module& parent, const std::string& name, Norm norm, std::int64_t channels) {
  if (norm == Norm::frn) return add(parent, name, std::make_shared<FilterResponseNorm>(channels, true));
  return add_linear_norm(parent, name, norm, channels);
}

NormLayer* add_linear_norm(torch::nn::Module& parent, const std::string& name, Norm norm, std::int64_t channels) {
  switch (norm) {
    case Norm::batch:
      return add(parent, name, std::make_shared<BatchNormLayer>(channels));
    case Norm::sync:
      return add(parent, name, std::make_shared<SyncBatchNorm>(channels));
    case Norm::group:
      return add(parent, name, std::make_shared<GroupNormLayer>(channels));
    case Norm::frn:
      return add(parent, name, std::make_shared<FilterResponseNorm>(channels, false));
    case Norm::none:
      return add(parent, name, std::make_shared<NoNorm>());
  }
  ensure(false, "a norm that does not exist was asked for");
  return nullptr;
}

}  // namespace credence
