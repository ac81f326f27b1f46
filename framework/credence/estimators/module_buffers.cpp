#include "credence/estimators/module_buffers.h"

#include "credence/estimators/shard_tree.h"

namespace credence {

ModuleBuffers::ModuleBuffers(Network& network, int local_shards)
    : network_(network), sums_(static_cast<std::size_t>(local_shards)) {}

void ModuleBuffers::begin_step() {
  at_start_ = network_.buffer_arena().clone();
  integers_at_start_.clear();
  integers_of_shard_zero_.clear();
  for (const auto& [name, buffer] : network_.integer_buffers()) integers_at_start_.push_back(buffer.clone());
}

void ModuleBuffers::restore() {
  const torch::NoGradGuard no_grad;
  network_.buffer_arena().copy_(at_start_);
  for (std::size_t i = 0; i < integers_at_start_.size(); ++i) {
    torch::Tensor buffer = network_.integer_buffers()[i].second;
    buffer.copy_(integers_at_start_[i]);
  }
}

void ModuleBuffers::collect(int local_shard, bool first_sample, bool first_of_all) {
  const torch::Tensor& arena = network_.buffer_arena();
  if (arena.numel() > 0) {
    torch::Tensor& sum = sums_[static_cast<std::size_t>(local_shard)];
    if (first_sample) {
      sum = arena.clone();
    } else {
      sum.add_(arena);
    }
  }
  if (!first_of_all) return;
  for (const auto& [name, buffer] : network_.integer_buffers()) {
    integers_of_shard_zero_.push_back(buffer.to(torch::kCPU, torch::kFloat64).flatten());
  }
}

std::vector<double> ModuleBuffers::integers() const {
  std::vector<double> values;
  for (std::size_t i = 0; i < integers_at_start_.size(); ++i) {
    const auto count = static_cast<std::size_t>(integers_at_start_[i].numel());
    if (integers_of_shard_zero_.empty()) {
      values.insert(values.end(), count, 0.0);
    } else {
      const double* const mine = integers_of_shard_zero_[i].data_ptr<double>();
      values.insert(values.end(), mine, mine + count);
    }
  }
  return values;
}

torch::Tensor ModuleBuffers::sum_over_shards() {
  if (sums_.front().defined()) {
    sum_tree(sums_, 0, sums_.size(), [](torch::Tensor& sum, const torch::Tensor& other) { sum.add_(other); });
  }
  return sums_.front();
}

void ModuleBuffers::finish(double multiplier, std::span<const double> integers) {
  const torch::NoGradGuard no_grad;
  if (sums_.front().defined()) network_.buffer_arena().copy_(sums_.front().mul_(multiplier));
  std::size_t offset = 0;
  for (const auto& [name, buffer] : network_.integer_buffers()) {
    const auto count = static_cast<std::size_t>(buffer.numel());
    const std::vector<double> values(integers.begin() + static_cast<std::ptrdiff_t>(offset),
                                     integers.begin() + static_cast<std::ptrdiff_t>(offset + count));
    torch::Tensor target = buffer;
    target.copy_(torch::tensor(values, torch::kFloat64).view(buffer.sizes()));
    offset += count;
  }
}

}  // namespace credence
