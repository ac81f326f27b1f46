#include "credence/estimators/backward.h"

#include "credence/base/errors.h"

namespace credence {

BackwardEstimator::BackwardEstimator(const Parts& parts, const Options& options, const Sums& sums)
    : Estimator(parts, options),
      sums_(parts.posterior, {.local_shards = local_shards(),
                              .samples = options.samples,
                              .two_sums = sums.two,
                              .keep_in_place = parts.communicator.size() == 1,
                              .apart = sums.apart}) {
  const Layout& layout = parts.posterior.layout();
  if (parts.communicator.size() == 1 || options.stage_through_host) return;
  reducer_ = std::make_unique<BucketReducer>(
      parts.communicator,
      plan_buckets(layout.offsets(), layout.elements, torch::elementSize(parts.network.dtype()), options.bucket_bytes),
      static_cast<int>(layout.slots.size()));
}

void BackwardEstimator::take(int slot, const torch::Tensor& gradient) {
  leave(slot, sums_.take(slot, gradient));
}

void BackwardEstimator::take_scale(int slot, const torch::Tensor& gradient, bool times_eps) {
  leave(slot, sums_.take_scale(slot, gradient, times_eps));
}

void BackwardEstimator::leave(int slot, bool is_final) {
  if (is_final && reducer_) reducer_->ready(slot);
  parts().communicator.progress();
}

void BackwardEstimator::end_pass() {
  const Posterior& posterior = parts().posterior;
  // The loss knows nothing of the arrays of priors: their gradients come with the closed forms.
  for (const PriorTerm& term : posterior.plan().terms) {
    for (const int array : term.arrays) take(array, torch::zeros_like(posterior.view(posterior.mean(), array)));
  }
  const int missing = sums_.end_pass();
  require(missing < 0, "parameter {} of the network takes no part in its output: it received no gradient",
          missing < 0 ? std::string() : posterior.layout().slots[static_cast<std::size_t>(missing)].name);
}

void BackwardEstimator::begin_step() {
  sums_.begin_step();
  if (!reducer_) return;
  std::vector<Buffer> arrays = {buffer_of(sums_.sum())};
  if (sums_.scaled_sum().defined()) arrays.push_back(buffer_of(sums_.scaled_sum()));
  reducer_->arm(arrays);
}

void BackwardEstimator::finish_step() {
  if (parts().communicator.size() == 1) return;
  if (reducer_) {
    reducer_->finish();
    return;
  }
  reduce_array(sums_.sum());
  if (sums_.scaled_sum().defined()) reduce_array(sums_.scaled_sum());
}

}  // namespace credence
