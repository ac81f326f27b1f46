#include "credence/networks/sync_norm.h"

#include <c10/util/intrusive_ptr.h>

#include <algorithm>
#include <utility>

namespace credence {
namespace {

using torch::autograd::AutogradContext;
using Sum = std::function<void(const torch::Tensor&)>;

struct KeptSum final : torch::CustomClassHolder {
  explicit KeptSum(Sum kept) : sum(std::move(kept)) {}
  Sum sum;
};

/// The sum over shards. Every shard's loss depends on every shard's summand, so the gradient is summed likewise.
struct OverShards final : torch::autograd::Function<OverShards> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& mine, const Sum& sum) {
    context->saved_data["sum"] = c10::IValue::make_capsule(c10::make_intrusive<KeptSum>(sum));
    torch::Tensor total = mine.clone();
    sum(total);
    return total;
  }
  static torch::autograd::variable_list backward(AutogradContext* context, const torch::autograd::variable_list& of) {
    torch::Tensor total = of.front().clone(torch::MemoryFormat::Contiguous);
    c10::static_intrusive_pointer_cast<KeptSum>(context->saved_data["sum"].toCapsule())->sum(total);
    return {total, torch::Tensor()};
  }
};

torch::Tensor by_channel(const torch::Tensor& values, const torch::Tensor& like) {
  return values.to(like.scalar_type()).view({1, -1, 1, 1});
}

}  // namespace

torch::Tensor SyncBatchNorm::normalize(const torch::Tensor& input) {
  if (!is_training() || sums_.shards == 1) return forward(input);
  const torch::Tensor x = input.to(weight.scalar_type());  // bfloat16 under --precision bf16
  // Moments about zero add up; in double, where a large mean leaves the variance its digits.
  const auto [own_variance, own_mean] = torch::var_mean(x, at::IntArrayRef({0, 2, 3}), /*unbiased=*/false);
  const torch::Tensor mine = own_mean.to(torch::kFloat64);
  const torch::Tensor moments = torch::stack({mine, own_variance.to(torch::kFloat64) + mine.square()});
  const torch::Tensor all = OverShards::apply(moments, sums_.sum) / sums_.shards;
  const torch::Tensor mean = all[0];
  const torch::Tensor variance = (all[1] - mean.square()).clamp_min(0.0);
  note(mean, variance, x.numel() / x.size(1) * sums_.shards);
  const torch::Tensor scale = (variance + options.eps()).rsqrt() * weight.to(torch::kFloat64);
  const torch::Tensor shift = bias.to(torch::kFloat64) - mean * scale;
  return torch::addcmul(by_channel(shift, x), x, by_channel(scale, x)).to(input.scalar_type());
}

/// Running averages, as batch normalisation keeps them: of the unbiased variance.
void SyncBatchNorm::note(const torch::Tensor& mean, const torch::Tensor& variance, std::int64_t count) {
  const torch::NoGradGuard no_grad;
  const double unbiased = static_cast<double>(count) / static_cast<double>(std::max<std::int64_t>(count - 1, 1));
  const double momentum = options.momentum().value_or(0.0);
  running_mean.lerp_(mean.to(running_mean.scalar_type()), momentum);
  running_var.lerp_((variance * unbiased).to(running_var.scalar_type()), momentum);
  num_batches_tracked.add_(1);
}

bool set_shard_sums(torch::nn::Module& network, const ShardSums& sums) {
  bool any = false;
  for (const auto& part : network.modules()) {
    auto* const layer = dynamic_cast<SyncBatchNorm*>(part.get());
    if (layer == nullptr) continue;
    layer->set_sums(sums);
    any = true;
  }
  return any;
}

}  // namespace credence
