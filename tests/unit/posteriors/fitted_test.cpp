// Posteriors made of what training leaves: iterates, curvature, weights that are not needed.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/posteriors/sparsity.h"

namespace credence {
namespace {

using kernels::NoiseStream;
using kernels::Purpose;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::int64_t kWeights = 70;  // more than one group of noise
constexpr std::int64_t kBiases = 3;

Slot slot_of(const std::string& name, std::vector<std::int64_t> shape, std::int64_t offset, std::int64_t count) {
  Slot slot;
  slot.name = name;
  slot.shape = std::move(shape);
  slot.offset = offset;
  slot.count = count;
  return slot;
}

Layout two_slots() {
  Layout layout;
  layout.slots = {slot_of("fc.weight", {7, 10}, 0, kWeights), slot_of("fc.bias", {3}, 128, kBiases)};
  layout.elements = 192;
  return layout;
}

Posterior make(const std::vector<std::string>& families, const std::vector<std::string>& priors = {"normal:1"},
               double initial_scale = 0.1) {
  return Posterior(plan_posterior(two_slots(), parse_families(families), parse_priors(priors)),
                   torch::sin(torch::arange(192, torch::kFloat64)), initial_scale, 1);
}

torch::Tensor iterate(int number) {
  return torch::sin(torch::arange(192, torch::kFloat64) * (0.3 + 0.1 * number));
}

/// Two slots' values, one after the other.
torch::Tensor both(const Posterior& posterior, const torch::Tensor& arena) {
  return torch::cat({posterior.view(arena, 0).flatten(), posterior.view(arena, 1).flatten()});
}

NoiseStream prediction(std::uint32_t sample) {
  return {.seed = 9, .purpose = Purpose::prediction, .sample = sample};
}

torch::Tensor normals(const Posterior& posterior, const NoiseStream& noise) {
  std::vector<double> values(192);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<double>(kernels::standard_normal(noise, static_cast<std::int64_t>(i)));
  }
  return both(posterior, torch::tensor(values, torch::kFloat64));
}

double largest(const torch::Tensor& difference) {
  return difference.abs().max().item<double>();
}

/// The element that the factors' noise begins at: where the deviations of the first tensor do.
std::int64_t first_factor(const Posterior& posterior) {
  const auto& kept = posterior.plan().kept.slots;
  return std::find_if(kept.begin(), kept.end(), [](const Slot& slot) { return slot.array == "deviations"; })->offset;
}

TEST(Swag, DrawsFromMomentsAndLastDeviationsOfTheIterates) {
  constexpr int kCollected = 5;
  constexpr int kRank = 3;
  Posterior posterior = make({"swag:3"});
  std::vector<torch::Tensor> iterates;
  for (int i = 0; i < kCollected; ++i) {
    torch::Tensor(posterior.mean()).copy_(iterate(i));
    iterates.push_back(both(posterior, iterate(i)));
    posterior.collect(i == 0);
  }
  EXPECT_EQ(posterior.collected(), kCollected);
  const torch::Tensor all = torch::stack(iterates);
  const torch::Tensor average = all.mean(0);
  const torch::Tensor variance = all.square().mean(0) - average.square();
  EXPECT_LT(largest(both(posterior, posterior.mean_weights()) - average), 1e-14);

  const NoiseStream noise = prediction(4);
  posterior.draw(noise);
  torch::Tensor expected = average + (variance / 2.0).sqrt() * normals(posterior, noise);
  NoiseStream common = noise;
  common.purpose = Purpose::factors;
  common.step = 0xffffffffU;
  const std::int64_t first = first_factor(posterior);
  for (int i = kCollected - kRank; i < kCollected; ++i) {  // iterate i lies in place i mod K
    const torch::Tensor deviation = iterates[static_cast<std::size_t>(i)] - all.narrow(0, 0, i + 1).mean(0);
    expected += deviation * static_cast<double>(kernels::standard_normal(common, first + i % kRank)) /
                std::sqrt(2.0 * (kRank - 1));
  }
  EXPECT_LT(largest(both(posterior, posterior.weights()) - expected), 1e-13);
}

TEST(Swag, HasTheRankOfItsIteratesWhileTheseAreFew) {
  Posterior posterior = make({"swag:20"});
  torch::Tensor(posterior.mean()).copy_(iterate(0));
  posterior.collect(true);
  EXPECT_THAT([&] { posterior.draw(prediction(0)); }, ThrowsMessage<UserError>(HasSubstr("needs two")));
  torch::Tensor(posterior.mean()).copy_(iterate(1));
  posterior.collect(false);
  posterior.draw(prediction(0));
  EXPECT_TRUE(posterior.weights().isfinite().all().item<bool>());
  // The first deviation is zero and the second half the difference: with the diagonal, a variance of d^2 / 4 in all.
  const torch::Tensor half = (both(posterior, iterate(1)) - both(posterior, iterate(0))) / 2.0;
  NoiseStream common = prediction(0);
  common.purpose = Purpose::factors;
  common.step = 0xffffffffU;
  const torch::Tensor expected =
      both(posterior, iterate(0)) + half +
      (half.abs() * normals(posterior, prediction(0)) +
       half * static_cast<double>(kernels::standard_normal(common, first_factor(posterior) + 1))) /
          std::sqrt(2.0);
  EXPECT_LT(largest(both(posterior, posterior.weights()) - expected), 1e-14);
  posterior.collect(true);
  EXPECT_EQ(posterior.collected(), 1);
  EXPECT_LT(largest(both(posterior, posterior.mean_weights()) - both(posterior, iterate(1))), 1e-15);
}

TEST(Laplace, DrawsByPrecisionInPredictionsAndTrainsAsAPoint) {
  Posterior posterior = make({"laplace"});
  EXPECT_FALSE(posterior.has_gaussian());
  EXPECT_TRUE(posterior.linearized());
  posterior.draw({.seed = 9, .step = 3});
  EXPECT_TRUE(posterior.weights().equal(posterior.mean()));
  EXPECT_THAT([&] { posterior.draw(prediction(0)); }, ThrowsMessage<UserError>(HasSubstr("fitted when training ends")));
  posterior.kept_view(0).fill_(4.0);
  posterior.kept_view(1).fill_(25.0);
  posterior.set_collected(1);
  posterior.draw(prediction(2));
  const torch::Tensor scale =
      torch::cat({torch::full({kWeights}, 0.5, torch::kFloat64), torch::full({kBiases}, 0.2, torch::kFloat64)});
  const torch::Tensor expected = both(posterior, posterior.mean()) + scale * normals(posterior, prediction(2));
  EXPECT_LT(largest(both(posterior, posterior.weights()) - expected), 1e-15);
}

TEST(Laplace, RefusesWhatItCannotBeFittedTo) {
  EXPECT_THAT([] { make({"laplace"}, {"laplace:1"}); }, ThrowsMessage<UserError>(HasSubstr("normal:STDDEV")));
  EXPECT_THAT([] { make({"laplace"}, {"none"}); }, ThrowsMessage<UserError>(HasSubstr("normal:STDDEV")));
  EXPECT_THAT([] { make({"laplace", "bias=mean-field"}); }, ThrowsMessage<UserError>(HasSubstr("must be point")));
  EXPECT_THAT([] { make({"swag", "bias=laplace"}); }, ThrowsMessage<UserError>(HasSubstr("must be point")));
  EXPECT_THAT([] { parse_family("laplace:all"); }, ThrowsMessage<UserError>(HasSubstr("last-layer")));
  EXPECT_THAT([] { parse_family("swag:1"); }, ThrowsMessage<UserError>(HasSubstr("between 2 and 1000")));
}

TEST(Sparsity, CountsByLogAlphaAndPrunesForGood) {
  Posterior posterior = make({"sparse"}, {"log-uniform"});
  // log alpha = 2 log(scale / mean) is just above 3 for the first four weights and the last bias, below for the rest.
  const double limit = 0.1 * std::exp(-1.5);
  torch::Tensor mean = posterior.mean();
  mean.fill_(limit * 1.001);
  mean.narrow(0, 0, 3).fill_(-limit * 0.999);
  mean[3] = 0.0;
  mean[130] = limit * 0.999;
  const Sparsity sparsity = measure_sparsity(posterior);
  ASSERT_EQ(sparsity.tensors.size(), 2U);
  EXPECT_EQ(sparsity.tensors[0].pruned, 4);
  EXPECT_EQ(sparsity.tensors[1].pruned, 1);
  EXPECT_DOUBLE_EQ(sparsity.share(), 5.0 / 73.0);
  EXPECT_DOUBLE_EQ(sparsity.compression(), 70.0 / 66.0);

  posterior.draw(prediction(1));
  const torch::Tensor before = posterior.weights().clone();
  EXPECT_EQ(prune(posterior).tensors[0].pruned, 4);
  posterior.draw(prediction(1));
  for (const std::int64_t element : {0, 1, 2, 3, 130}) {
    EXPECT_EQ(posterior.mean()[element].item<double>(), 0.0);
    const double weight = std::abs(posterior.weights()[element].item<double>());
    EXPECT_LT(weight, 1e-13);
    EXPECT_GT(weight, 1e-24);  // so that the product of two is no denormal number in float32
  }
  for (const std::int64_t element : {4, 69, 128, 129}) {
    EXPECT_EQ(posterior.weights()[element].item<double>(), before[element].item<double>());
  }
}

TEST(Sparsity, OfSpikeSlabIsByInclusion) {
  Posterior posterior = make({"spike-slab"}, {"spike-slab:0.5,1"});
  EXPECT_EQ(measure_sparsity(posterior).share(), 0.0);
  for (int slot = 2; slot < 4; ++slot) {
    ASSERT_EQ(posterior.layout().slots[static_cast<std::size_t>(slot)].array, "inclusion_logit");
  }
  posterior.view(posterior.mean(), 2).flatten().narrow(0, 0, 35).fill_(-0.01);
  EXPECT_DOUBLE_EQ(prune(posterior).compression(), 2.0);
  for (std::uint32_t sample = 0; sample < 20; ++sample) {
    posterior.draw(prediction(sample));
    EXPECT_EQ(largest(posterior.view(posterior.weights(), 0).flatten().narrow(0, 0, 35)), 0.0);
  }
  EXPECT_EQ(measure_sparsity(make({"mean-field"})).tensors.size(), 0U);
}

}  // namespace
}  // namespace credence
