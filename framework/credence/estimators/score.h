#pragma once

#include <vector>

#include "credence/estimators/estimator.h"

namespace credence {

/// The score-function estimator (Williams 1992, REINFORCE; Ranganath et al. 2014): loss of a draw, minus a baseline,
/// times the gradient of log q at it. No backward pass. A draw's baseline is the mean loss of the same shard's other
/// draws (Kool et al. 2019), which are independent of it: under antithetic noise a draw's partner belongs to another
/// shard, so that the pair is left out.
///
/// Noise is a function of the seed, so ranks exchange their losses only, one number a draw, and each rebuilds the whole
/// gradient from noise that it draws again: the bytes of a step do not depend on the number of weights.
class ScoreEstimator final : public Estimator {
 public:
  /// UserError for one sample, for a posterior that is not mean-field or sparse throughout, and for more weights than
  /// kWeightsPerDraw for each independent draw of a step.
  ScoreEstimator(const Parts& parts, const Options& options);

  /// The gradient's noise grows with the root of weights over draws: a hundred times its signal, roughly, at this
  /// limit.
  static constexpr std::int64_t kWeightsPerDraw = 10'000;

 private:
  void begin_step() override {}
  void run_pass(const Pass& pass) override;
  void finish_step() override;
  GradientSum sum_of_gradients() const override;

  std::size_t place(int shard, int sample, int member) const;
  double advantage(int shard, int sample, int member) const;
  void add_draw(const kernels::NoiseStream& noise, int member, double advantage);

  std::int64_t step_ = 0;
  std::vector<double> losses_;  // {shard, sample, member}: nats per example, of all ranks after finish_step()
  torch::Tensor mean_gradient_, scale_gradient_;
  torch::Tensor constant_, product_, scratch_;  // [elements]
};

}  // namespace credence
