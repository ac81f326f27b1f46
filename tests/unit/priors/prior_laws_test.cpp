// What every prior must satisfy: its density integrates to 1 and is symmetric, KL to it is never negative, what is
// parsed can be described and parsed again.
#include <numbers>
#include <random>

#include "credence/base/errors.h"
#include "credence/priors/density.h"
#include "credence/priors/scale_marginal.h"
#include "unit/priors/cases.h"

namespace credence {
namespace {

using priors_cases::slot_of;
using torch::Tensor;

InformedPrior informed_prior(const Tensor& mean, const Tensor& scale) {
  auto tensors = std::make_shared<std::map<std::string, InformedTensor>>();
  (*tensors)["fc1.weight"] = {mean, scale, {}};
  return {tensors, 2.0, "checkpoint:first.h5,inflate=2"};
}

Prior prior_of(const std::string& spec, const std::vector<std::int64_t>& shape) {
  if (spec != "informed") return parse_prior(spec);
  return informed_prior(torch::zeros(shape), torch::full(shape, 0.3));
}

class PriorLaws : public testing::TestWithParam<std::string> {
 protected:
  double nats(const std::vector<double>& weights) const {
    const auto count = static_cast<std::int64_t>(weights.size());
    return negative_log_density_nats(prior_of(GetParam(), {1, count}), slot_of({1, count}),
                                     priors_cases::tensor_of(weights).unsqueeze(0))
        .item<double>();
  }
};

class ProperPriorLaws : public PriorLaws {};

/// The integral over w = exp(x) of both signs: smooth in x and falling exponentially to both sides, so the trapezoidal
/// sum converges exponentially (narrowest strip of analyticity: pi / 4).
TEST_P(ProperPriorLaws, DensityIntegratesToOne) {
  const double step = 0.05;
  double integral = 0.0;
  for (double x = -30.0; x < 30.0; x += step) {
    const double w = std::exp(x);
    integral += step * w * (std::exp(-nats({w})) + std::exp(-nats({-w})));
  }
  // Where the pole is cut off, at d = 1e-4, 2 integral_0^d (p(w) - p(d)) dw is missing. p is -2c log(w) there with
  // c = (2 pi^3)^-1/2 (horseshoe) or 1 / (2 pi) (hierarchical): 0.51 d or 0.64 d.
  const bool has_pole = GetParam().starts_with("horseshoe") || GetParam().starts_with("hierarchical");
  EXPECT_LE(integral, 1.0 + 1e-9);
  EXPECT_GE(integral, 1.0 - (has_pole ? 0.7 * kShortestLength : 1e-9));
}

TEST_P(ProperPriorLaws, DensityIsSymmetricAndFallsFromZero) {
  double previous = -std::numeric_limits<double>::infinity();
  for (const double w : {0.0, 1e-5, 1e-3, 0.03, 0.3, 1.0, 4.0, 60.0}) {
    EXPECT_EQ(nats({w}), nats({-w})) << w;
    EXPECT_GE(nats({w}), previous) << w;
    previous = nats({w});
  }
}

TEST_P(ProperPriorLaws, DoesNotDependOnTheOrderOfWeights) {
  EXPECT_NEAR(nats({0.1, -2.0, 0.004, 0.5}), nats({0.5, 0.004, 0.1, -2.0}), 1e-13 * 20);
}

TEST_P(ProperPriorLaws, SinglePrecisionIsEvaluatedInDouble) {
  const Tensor weights = torch::randn({3, 4}) * 0.4;
  const Prior prior = prior_of(GetParam(), {3, 4});
  EXPECT_EQ(negative_log_density_nats(prior, slot_of({3, 4}), weights).item<double>(),
            negative_log_density_nats(prior, slot_of({3, 4}), weights.to(torch::kDouble)).item<double>());
}

INSTANTIATE_TEST_SUITE_P(All, ProperPriorLaws,
                         testing::Values("normal:0.3", "normal:fan-in", "laplace:0.7", "logistic:0.4",
                                         "student-t:1,0.5", "student-t:6", "scale-mixture", "scale-mixture:0.9,0.5,0.1",
                                         "horseshoe:0.7", "horseshoe:0.7,unit", "hierarchical:0.8", "informed"));

class ClosedFormLaws : public PriorLaws {};

/// KL(q || p) = E_q[-log p] - H[q] >= 0 for every q, and from single precision the same as from double.
TEST_P(ClosedFormLaws, KlIsNeverNegative) {
  const Slot slot = slot_of({4, 5});
  const Prior prior = prior_of(GetParam(), slot.shape);
  std::mt19937_64 engine(3);
  std::normal_distribution<double> normal;
  torch::manual_seed(3);
  for (int trial = 0; trial < 300; ++trial) {
    const Tensor mean = torch::randn(slot.shape, torch::kDouble) * std::exp(2.0 * normal(engine) - 2.0);
    const Tensor scale = torch::exp(torch::randn(slot.shape, torch::kDouble) * 0.5 + 1.5 * normal(engine) - 1.0);
    std::vector<Tensor> arrays;
    for (const PriorArray& array : prior_arrays(prior, slot)) {
      arrays.push_back(torch::full(array.shape, array.initial + normal(engine), torch::kDouble));
    }
    const Tensor entropy = (torch::log(scale) + 0.5 * std::log(2.0 * std::numbers::pi * std::numbers::e)).sum();
    Tensor kl = cross_entropy_nats(prior, slot, mean, scale, arrays) - entropy;
    if (const Tensor further = prior_entropy_nats(prior, arrays); further.defined()) kl = kl - further;
    EXPECT_GE(kl.item<double>(), -1e-12) << GetParam();
  }
}

INSTANTIATE_TEST_SUITE_P(All, ClosedFormLaws,
                         testing::Values("normal:0.3", "normal:fan-in", "laplace:0.7", "spike-slab:0.3,0.6",
                                         "log-uniform", "hierarchical:0.8", "empirical", "informed"));

class ClosedFormOfADensityLaws : public PriorLaws {};

/// 4 standard errors of 4,000 draws.
TEST_P(ClosedFormOfADensityLaws, IsItsExpectation) {
  const Slot slot = slot_of({3});
  const Prior prior = prior_of(GetParam(), slot.shape);
  const Tensor mean = priors_cases::tensor_of({0.3, -1.2, 0.05}), scale = priors_cases::tensor_of({0.5, 0.02, 1.7});
  torch::manual_seed(5);
  const int draws = 4000;
  double sum = 0.0, squares = 0.0;
  for (int draw = 0; draw < draws; ++draw) {
    const Tensor weights = mean + scale * torch::randn({3}, torch::kDouble);
    const double value = negative_log_density_nats(prior, slot, weights).item<double>();
    sum += value;
    squares += value * value;
  }
  const double average = sum / draws;
  const double error = std::sqrt((squares / draws - average * average) / draws);
  EXPECT_NEAR(cross_entropy_nats(prior, slot, mean, scale, {}).item<double>(), average, 4.0 * error);
}

INSTANTIATE_TEST_SUITE_P(All, ClosedFormOfADensityLaws,
                         testing::Values("normal:0.3", "normal:fan-in", "laplace:0.7", "informed"));

TEST(SpikeSlabLaws, KlIsNeverNegativeAndZeroAtThePrior) {
  const SpikeSlabPrior prior{0.3, 0.7};
  torch::manual_seed(7);
  for (int trial = 0; trial < 300; ++trial) {
    const Tensor mean = torch::randn(10, torch::kDouble), scale = torch::exp(torch::randn(10, torch::kDouble));
    EXPECT_GE(spike_slab_kl_nats(prior, mean, scale, torch::rand(10, torch::kDouble)).item<double>(), 0.0);
  }
  const Tensor same = torch::full({10}, 0.7, torch::kDouble);
  EXPECT_NEAR(spike_slab_kl_nats(prior, 0.0 * same, same, torch::full({10}, 0.3, torch::kDouble)).item<double>(), 0.0,
              1e-14);
}

}  // namespace
}  // namespace credence
