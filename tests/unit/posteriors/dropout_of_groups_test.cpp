// Dropout on weights that groups add deviations to: its noise multiplies the sum, which the network uses.
#include <gmock/gmock.h>

#include "credence/posteriors/posterior.h"

namespace credence {
namespace {

constexpr std::int64_t kInputs = 2, kUnits = 40, kOutputs = 3, kGroups = 4;

/// A network of two layers as hierarchical-groups names them.
Layout grouped() {
  Layout layout;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, bool deviation) {
    Slot slot;
    slot.name = name;
    slot.shape = std::move(shape);
    slot.count = 1;
    for (const std::int64_t size : slot.shape) slot.count *= size;
    slot.offset = layout.elements;
    slot.is_bias = name.ends_with("bias");
    slot.is_deviation = deviation;
    layout.elements += (slot.count + 63) / 64 * 64;
    layout.slots.push_back(slot);
  };
  add("fc1.weight", {kUnits, kInputs}, false);
  add("fc1.bias", {kUnits}, false);
  add("fc1.deviation.weight", {kUnits, kInputs, kGroups}, true);
  add("fc1.deviation.bias", {kUnits, kGroups}, true);
  add("fc2.weight", {kOutputs, kUnits}, false);
  add("fc2.bias", {kOutputs}, false);
  add("fc2.deviation.weight", {kOutputs, kUnits, kGroups}, true);
  add("fc2.deviation.bias", {kOutputs, kGroups}, true);
  return layout;
}

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(DropoutOfGroups, DropsUnitsOfSharedWeightsAndDeviationsTogether) {
  constexpr int kMembers = 2;
  const Layout layout = grouped();
  Posterior posterior(plan_posterior(layout, parse_families({"dropout:0.3"}), parse_priors({"normal:1"}), kMembers),
                      torch::full({kMembers * layout.elements}, 0.5, torch::kFloat64), 0.1, 1);
  const auto ratio = [&](int slot) {
    return posterior.view(posterior.weights(), slot) / posterior.view(posterior.mean(), slot);
  };
  const int slots = static_cast<int>(layout.slots.size());
  torch::Tensor kept;
  for (std::uint32_t step = 0; step < 5; ++step) {
    posterior.draw({.seed = 3, .step = step});
    for (int member = 0; member < kMembers; ++member) {
      const torch::Tensor shared = ratio(member * slots + 4), deviation = ratio(member * slots + 6);
      const torch::Tensor units = shared[0];
      EXPECT_TRUE(units.eq(0.0).any().item<bool>() && units.gt(1.0).any().item<bool>());
      EXPECT_FALSE(kept.defined() && torch::equal(kept, units));  // of each draw and member
      kept = units.clone();
      EXPECT_TRUE(torch::equal(shared, units.expand({kOutputs, kUnits})));
      EXPECT_TRUE(torch::equal(deviation, units.view({1, kUnits, 1}).expand({kOutputs, kUnits, kGroups})));
      for (const int whole : {0, 1, 2, 3, 5, 7}) {  // biases, and what reads the data
        EXPECT_TRUE(ratio(member * slots + whole).eq(1.0).all().item<bool>()) << whole;
      }
    }
  }
}

TEST(DropoutOfGroups, NoiseOfSingleWeightsIsThatOfTheSumInEveryGroup) {
  const Layout layout = grouped();
  for (const char* family : {"dropconnect:0.3", "gaussian-dropout:0.3"}) {
    Posterior posterior(plan_posterior(layout, parse_families({family}), parse_priors({"normal:1"})),
                        torch::full({layout.elements}, 0.5, torch::kFloat64), 0.1, 1);
    posterior.draw({.seed = 3});
    for (const int shared : {0, 1, 4, 5}) {
      const torch::Tensor factor = posterior.view(posterior.weights(), shared) / 0.5;
      EXPECT_GT(factor.std().item<double>(), 0.1) << family << shared;
      const int deviation = shared + 2;
      const torch::Tensor drawn = posterior.view(posterior.weights(), deviation);
      EXPECT_TRUE(torch::allclose(drawn, 0.5 * factor.unsqueeze(-1).expand(drawn.sizes()), 1e-15)) << family << shared;
      // The draw is linear in the mean, so its gradient is the factor.
      posterior.pull_back(deviation, torch::ones_like(drawn), [&](int slot, const torch::Tensor& gradient) {
        EXPECT_EQ(slot, deviation);
        EXPECT_TRUE(torch::allclose(gradient, drawn / 0.5, 1e-15)) << family << shared;
      });
    }
  }
}

TEST(DropoutOfGroups, OfOneTermOfTheSumAloneIsRefused) {
  const auto plan = [](std::vector<std::string> families) {
    plan_posterior(grouped(), parse_families(families), parse_priors({"normal:1"}));
  };
  for (const char* rule : {"fc2[.]deviation=mean-field", "fc2[.]deviation=dropconnect:0.2", "fc2[.]weight=point"}) {
    EXPECT_THAT(
        [&] {
          plan({"dropconnect:0.3", rule});
        },
        ThrowsMessage<UserError>(AllOf(HasSubstr("fc2.deviation"), HasSubstr("give both the same --posterior"))))
        << rule;
  }
  plan({"mean-field", "^fc2=dropconnect:0.3"});
  plan({"point", "deviation=mean-field"});
}

}  // namespace
}  // namespace credence
