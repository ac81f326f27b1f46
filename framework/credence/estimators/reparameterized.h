#pragma once

#include "credence/estimators/backward.h"

namespace credence {

/// Reparameterised weight noise, w = mean + scale * eps (Kingma and Welling 2014; Blundell et al. 2015): every pass
/// draws weights and runs backward.
class ReparameterizedEstimator final : public BackwardEstimator {
 public:
  ReparameterizedEstimator(const Parts& parts, const Options& options);
  ~ReparameterizedEstimator() override;

 private:
  void run_pass(const Pass& pass) override;
  void run_member(const Pass& pass, int member);

  int member_ = 0;  // of the present pass
};

}  // namespace credence
