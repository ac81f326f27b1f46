#include "credence/estimators/backward.h"

#include <algorithm>

#include "credence/base/errors.h"

namespace credence {

namespace {

/// On a CPU a copy of the gradient into an arena costs as much as its transfer: slots of a quarter of a bucket and more
/// travel from where backward put them.
std::vector<Bucket> buckets_of(const Estimator::Parts& parts, const Estimator::Options& options, bool shares_update) {
  if (!Estimator::exchanges_gradients(parts) || options.stage_through_host) return {};
  const Layout& layout = parts.posterior.layout();
  BucketSizes sizes{options.bucket_bytes};
  if (!parts.network.device().is_cuda()) sizes.alone_bytes = options.bucket_bytes / 4;
  std::vector<Bucket> buckets =
      plan_buckets(layout.offsets(), layout.elements, torch::elementSize(parts.network.dtype()), sizes);
  for (Bucket& bucket : buckets) {
    if (!shares_update || bucket.last_slot - bucket.first_slot > 1) continue;
    bucket.scattered = UpdateShare::head_elements(
        parts.posterior.segments()[static_cast<std::size_t>(bucket.first_slot)], parts.communicator.size());
  }
  return buckets;
}

UpdateShare share_of(const Estimator::Parts& parts, const std::vector<Bucket>& buckets) {
  const auto segments = parts.posterior.segments();
  std::vector<bool> dealt(segments.size());
  for (const Bucket& bucket : buckets) {
    if (bucket.scattered > 0) dealt[static_cast<std::size_t>(bucket.first_slot)] = true;
  }
  if (std::find(dealt.begin(), dealt.end(), true) == dealt.end()) return {};
  return {segments, dealt, parts.communicator.rank(), parts.communicator.size()};
}

/// Where one draw serves a whole step and the kernels alone make it, its weights are all that a rank needs of what the
/// others update. On a GPU the update takes no longer than they would take to arrive.
bool can_share_update(const Estimator::Parts& parts, const Estimator::Options& options, bool two_sums) {
  const PosteriorPlan& plan = parts.posterior.plan();
  return options.share_update && !two_sums && plan.members == 1 && plan.structures.empty() && plan.terms.empty() &&
         parts.network.device().is_cpu();
}

/// Which slots need no arena: all where no gradient is communicated, else on a CPU those alone in their buckets.
std::vector<bool> slots_in_place(const Estimator::Parts& parts, const std::vector<Bucket>& buckets) {
  std::vector<bool> in_place(parts.posterior.layout().slots.size(), !Estimator::exchanges_gradients(parts));
  if (parts.network.device().is_cuda()) return in_place;
  for (const Bucket& bucket : buckets) {
    if (bucket.last_slot - bucket.first_slot == 1) in_place[static_cast<std::size_t>(bucket.first_slot)] = true;
  }
  return in_place;
}

}  // namespace

BackwardEstimator::BackwardEstimator(const Parts& parts, const Options& options, const Sums& sums)
    : BackwardEstimator(parts, options, sums, buckets_of(parts, options, can_share_update(parts, options, sums.two))) {}

BackwardEstimator::BackwardEstimator(const Parts& parts, const Options& options, const Sums& sums,
                                     std::vector<Bucket> buckets)
    : Estimator(parts, options, share_of(parts, buckets)),
      sums_(parts.posterior, {.local_shards = local_shards(),
                              .samples = options.samples,
                              .two_sums = sums.two,
                              .in_place = slots_in_place(parts, buckets),
                              .apart = sums.apart}) {
  if (buckets.empty()) return;
  const auto slots = static_cast<int>(parts.posterior.layout().slots.size());
  reducer_ = std::make_unique<BucketReducer>(parts.communicator, std::move(buckets), slots);
}

void BackwardEstimator::take(int slot, const torch::Tensor& gradient) {
  leave(slot, sums_.take(slot, gradient));
}

void BackwardEstimator::take_scale(int slot, const torch::Tensor& gradient, bool times_eps) {
  leave(slot, sums_.take_scale(slot, gradient, times_eps));
}

void BackwardEstimator::leave(int slot, bool is_final) {
  if (is_final && reducer_) {
    const torch::Tensor& elsewhere = sums_.in_place(slot);
    reducer_->ready(slot, elsewhere.defined() ? std::optional(buffer_of(elsewhere)) : std::nullopt);
  }
  parts().communicator.progress();
}

void BackwardEstimator::end_pass() {
  const Posterior& posterior = parts().posterior;
  // The loss knows nothing of the arrays of priors: their gradients come with the closed forms.
  for (const PriorTerm& term : posterior.plan().terms) {
    if (!posterior.works_on(term.slot)) continue;
    for (const int array : term.arrays) take(array, torch::zeros_like(posterior.view(posterior.mean(), array)));
  }
  const int missing = sums_.end_pass();
  require(missing < 0, "parameter {} of the network takes no part in its output: it received no gradient",
          missing < 0 ? std::string() : posterior.layout().slots[static_cast<std::size_t>(missing)].name);
}

void BackwardEstimator::begin_step() {
  sums_.begin_step();
  if (!reducer_) return;
  // Where no slot needs the arena, the buckets' places in it are all that counts.
  Buffer arena = buffer_of(parts().posterior.mean());
  arena.data = sums_.sum().defined() ? sums_.sum().data_ptr() : nullptr;
  std::vector<Buffer> arrays = {arena};
  if (sums_.scaled_sum().defined()) arrays.push_back(buffer_of(sums_.scaled_sum()));
  reducer_->arm(arrays);
}

void BackwardEstimator::finish_step() {
  if (!exchanges_gradients(parts())) return;
  if (reducer_) {
    reducer_->finish();
    return;
  }
  reduce_array(sums_.sum());
  if (sums_.scaled_sum().defined()) reduce_array(sums_.scaled_sum());
}

}  // namespace credence
