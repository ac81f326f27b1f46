#pragma once

#include <memory>
#include <vector>

#include "credence/communication/bucket_reducer.h"
#include "credence/estimators/estimator.h"
#include "credence/estimators/gradient_sums.h"

namespace credence {

/// Estimators whose gradients come of backward passes: they are summed over passes, in one fixed tree over all shards,
/// and leave for other ranks in buckets while the last pass still runs.
class BackwardEstimator : public Estimator {
 protected:
  struct Sums {
    bool two = false;           // dL/dscale is a sum of its own
    std::vector<bool> apart{};  // as in GradientSums
  };
  BackwardEstimator(const Parts& parts, const Options& options, const Sums& sums);

  GradientSums& sums() { return sums_; }
  /// What GradientSums::take() of the same name does, and the slot leaves once it is final.
  void take(int slot, const torch::Tensor& gradient);
  void take_scale(int slot, const torch::Tensor& gradient, bool times_eps);
  /// Ends a pass. UserError where a parameter of the network received no gradient.
  void end_pass();

 private:
  BackwardEstimator(const Parts& parts, const Options& options, const Sums& sums, std::vector<Bucket> buckets);
  void begin_step() override;
  void finish_step() override;
  GradientSum sum_of_gradients() const override { return sums_.result(); }
  void leave(int slot, bool is_final);

  GradientSums sums_;
  std::unique_ptr<BucketReducer> reducer_;  // null where nothing is communicated during backward
};

}  // namespace credence
