#include "credence/prediction/norm_statistics.h"

#include "credence/base/errors.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/sync_norm.h"
#include "credence/networks/torchscript.h"
#include "credence/prediction/blocks.h"

namespace credence {
namespace {

/// The share of the newest batch in a running average. Without momentum it is one over a counter of batches, which is
/// set to zero before each.
template <class BatchNorm>
bool momentum_of(torch::nn::Module& module, double& momentum) {
  auto* const layer = module.as<BatchNorm>();
  if (layer != nullptr) momentum = layer->options.momentum().value_or(1.0);
  return layer != nullptr;
}

bool is_batch_norm(torch::nn::Module& module, double& momentum) {
  using namespace torch::nn;
  if (auto* const part = module.as<ScriptPart>()) {
    if (!part->normalizes_over_batch) return false;
    momentum = part->momentum();
    return true;
  }
  return momentum_of<BatchNorm1d>(module, momentum) || momentum_of<BatchNorm2d>(module, momentum) ||
         momentum_of<BatchNorm3d>(module, momentum);
}

}  // namespace

NormStatistics::NormStatistics(Network& network, const Data& data) : network_(network), data_(data) {
  require(data.batches >= 1, "--norm-batches must be at least 1, not {}", data.batches);
  find_layers();
  require(!layers_.empty(),
          "--norm-statistics refresh is for networks with batch normalisation, and this one has none; leave it out");
}

NormStatistics::~NormStatistics() {
  const torch::NoGradGuard no_grad;
  for (auto& [buffer, values] : own_) buffer.copy_(values);
}

void NormStatistics::find_layers() {
  for (const auto& part : network_.module().modules()) {
    Layer layer{part.get(), {}, {}, {}, 1.0};
    if (!is_batch_norm(*part, layer.momentum)) continue;
    over_shards_ = over_shards_ || dynamic_cast<SyncBatchNorm*>(part.get()) != nullptr;
    for (const auto& item : part->named_buffers(/*recurse=*/false)) {
      if (!item.value().defined()) continue;
      if (item.key() == "running_mean") layer.mean = item.value();
      if (item.key() == "running_var") layer.variance = item.value();
      if (item.key() == "num_batches_tracked") layer.counter = item.value();
      own_.emplace_back(item.value(), item.value().clone());
    }
    if (layer.mean.defined() && layer.variance.defined()) layers_.push_back(layer);
  }
}

const Batch& NormStatistics::batch(std::int64_t index) {
  const auto i = static_cast<std::size_t>(index);
  if (i < kept_.size()) return kept_[i];
  const int together = over_shards_ ? data_.plan.shards() : 1;
  std::vector<std::int64_t> examples;
  for (std::int64_t shard = index * together; shard < (index + 1) * together; ++shard) {
    const int shards = data_.plan.shards();
    const auto part = data_.plan.select(shard / shards, static_cast<int>(shard % shards)).examples;
    examples.insert(examples.end(), part.begin(), part.end());
  }
  data_.source.read(examples, other_);
  const auto bytes = static_cast<std::int64_t>(other_.pixels.size() + sizeof(float) * other_.inputs.size());
  if (i > kept_.size() || kept_bytes_ + bytes > kKeptInputBytes) return other_;
  kept_bytes_ += bytes;
  return kept_.emplace_back(std::move(other_));
}

NormStatistics::Values NormStatistics::estimate(Communicator& communicator) {
  const torch::NoGradGuard no_grad;
  Values sums;
  for (const Layer& layer : layers_) {
    layer.module->train();
    sums.emplace_back(torch::zeros_like(layer.mean, torch::kFloat64), torch::zeros_like(layer.mean, torch::kFloat64));
  }
  for (std::int64_t i = 0; i < data_.batches; ++i) {
    for (Layer& layer : layers_) {
      layer.mean.zero_();
      layer.variance.zero_();
      if (layer.counter.defined()) layer.counter.zero_();
    }
    network_.forward(input_tensor(batch(i), data_.source.spec(), network_.dtype(), network_.device()));
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      sums[l].first.add_(layers_[l].mean, 1.0 / layers_[l].momentum);
      sums[l].second.add_(layers_[l].variance, 1.0 / layers_[l].momentum);
    }
    communicator.progress();
  }
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].module->eval();
    sums[l].first.div_(static_cast<double>(data_.batches));
    sums[l].second.div_(static_cast<double>(data_.batches));
  }
  return sums;
}

void NormStatistics::use(const Values& values) {
  const torch::NoGradGuard no_grad;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].mean.copy_(values[l].first);
    layers_[l].variance.copy_(values[l].second);
  }
}

}  // namespace credence
