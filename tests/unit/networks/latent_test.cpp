// Networks with latent variables beside their weights: what a vae tells of its code, and groups around shared weights.
#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "credence/networks/hierarchical_groups.h"
#include "credence/networks/network.h"
#include "credence/networks/vae.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(Vae, TellsDensityRatioAndDivergenceOfItsDraw) {
  ExampleSpec spec;
  spec.input_shape = {1, 2, 3};
  Network network(build_module("vae:2,5", spec, 6, 1), torch::kFloat64);
  auto& vae = dynamic_cast<VaeImpl&>(network.module());
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = torch::rand({4, 1, 2, 3}, torch::kFloat64);
  torch::manual_seed(21);
  const torch::Tensor outputs = network.forward(x);
  ASSERT_EQ(outputs.sizes().vec(), (std::vector<std::int64_t>{4, 8}));
  torch::manual_seed(21);
  const torch::Tensor eps = torch::randn({4, 2}, torch::kFloat64);
  const auto code = vae.encode(x);
  for (std::int64_t i = 0; i < 4; ++i) {
    double ratio = 0.0;
    double kl = 0.0;
    std::vector<double> z;
    for (std::int64_t k = 0; k < 2; ++k) {
      const double mean = code.mean[i][k].item<double>();
      const double scale = std::exp(0.5 * code.log_variance[i][k].item<double>());
      z.push_back(mean + scale * eps[i][k].item<double>());
      const double standard = (z.back() - mean) / scale;
      ratio += (-0.5 * standard * standard - std::log(scale)) - (-0.5 * z.back() * z.back());
      kl += 0.5 * (mean * mean + scale * scale - 1.0) - std::log(scale);
    }
    EXPECT_NEAR(outputs[i][6].item<double>(), ratio, 1e-12);
    EXPECT_NEAR(outputs[i][7].item<double>(), kl, 1e-12);
    const torch::Tensor decoded = vae.decode(torch::tensor(z, torch::kFloat64).view({1, 2}));
    EXPECT_TRUE(torch::allclose(outputs[i].narrow(0, 0, 6), decoded[0], 1e-12, 1e-12));
  }
}

TEST(Vae, OnlyTheEncoderIsAmortised) {
  ExampleSpec spec;
  spec.input_shape = {3};
  const Network network(build_module("vae:2,5", spec, 3, 1));
  int amortized = 0;
  for (const Slot& slot : network.layout().slots) {
    EXPECT_EQ(slot.is_amortized, slot.name.starts_with("encoder.")) << slot.name;
    amortized += slot.is_amortized ? 1 : 0;
  }
  EXPECT_EQ(amortized, 4);
}

ExampleSpec grouped() {
  ExampleSpec spec;
  spec.input_shape = {3};
  spec.classes = 2;
  spec.feature_names = {"x1", "group", "x2"};
  return spec;
}

TEST(HierarchicalGroups, EachExampleHasTheWeightsOfItsGroup) {
  Network network(build_module("hierarchical-groups:3,4,tanh,shared=1", grouped(), 2, 1), torch::kFloat64);
  torch::manual_seed(2);
  torch::OrderedDict<std::string, torch::Tensor> parameters = network.module().named_parameters();
  {
    const torch::NoGradGuard no_grad;
    for (auto& item : parameters) item.value().normal_();
  }
  const torch::Tensor x = torch::tensor({0.3, 2.0, -1.0, 0.8, 0.0, 0.1, -0.4, 2.0, 0.9}, torch::kFloat64).view({3, 3});
  const torch::Tensor outputs = network.forward(x);
  for (std::int64_t i = 0; i < 3; ++i) {
    const auto group = static_cast<std::int64_t>(x[i][1].item<double>());
    const torch::Tensor features = torch::stack({x[i][0], x[i][2]});
    const torch::Tensor hidden = torch::tanh(parameters["fc1.weight"].mv(features) + parameters["fc1.bias"]);
    const torch::Tensor weight = parameters["fc2.weight"] + parameters["fc2.deviation.weight"].select(2, group);
    const torch::Tensor bias = parameters["fc2.bias"] + parameters["fc2.deviation.bias"].select(1, group);
    EXPECT_TRUE(torch::allclose(outputs[i], weight.mv(hidden) + bias, 1e-12, 1e-12));
  }
  const auto gradient = torch::autograd::grad({outputs.sum()}, {parameters["fc2.deviation.bias"]})[0];
  const torch::Tensor examples_of_group = torch::tensor({1.0, 0.0, 2.0}, torch::kFloat64).expand({2, 3});
  EXPECT_TRUE(torch::equal(gradient, examples_of_group));
  EXPECT_FALSE(parameters.contains("fc1.deviation.weight"));
}

TEST(HierarchicalGroups, GroupsBeginAlikeAndDeviationsAreMarked) {
  Network network(build_module("hierarchical-groups:3,4,shared=0", grouped(), 2, 1));
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = torch::tensor({0.3F, 0.0F, -1.0F, 0.3F, 2.0F, -1.0F}).view({2, 3});
  const torch::Tensor outputs = network.forward(x);
  EXPECT_TRUE(torch::allclose(outputs[0], outputs[1]));
  EXPECT_GT(outputs.abs().max().item<float>(), 0.0F);
  int deviations = 0;
  for (const Slot& slot : network.layout().slots) {
    if (!slot.is_deviation) continue;
    ++deviations;
    EXPECT_EQ(slot.fan_in, slot.name.starts_with("fc1") ? 2 : 4) << slot.name << ", as the layer has it in every group";
  }
  EXPECT_EQ(deviations, 4);
}

TEST(HierarchicalGroups, RefusesOtherGroupsAndDataWithoutThem) {
  ExampleSpec nameless = grouped();
  nameless.feature_names.clear();
  EXPECT_THAT([&] { build_module("hierarchical-groups:3,4", nameless, 2, 1); },
              ThrowsMessage<UserError>(HasSubstr("named 'group'")));
  EXPECT_THAT([&] { build_module("hierarchical-groups", grouped(), 2, 1); },
              ThrowsMessage<UserError>(HasSubstr("hierarchical-groups:10,20,20")));
  Network network(build_module("hierarchical-groups:3,4", grouped(), 2, 1));
  for (const float group : {3.0F, -1.0F, 0.5F}) {
    const torch::Tensor x = torch::tensor({0.3F, group, -1.0F}).view({1, 3});
    EXPECT_THAT([&] { network.forward(x); }, ThrowsMessage<DataError>(AllOf(HasSubstr("0 to 2"), HasSubstr("group"))));
  }
  const MemorySource known({grouped(), {0.1F, 2.0F, 0.2F, 0.1F, 0.0F, 0.2F}, {0, 1}, {}});
  EXPECT_NO_THROW(require_known_groups(network.module(), known));
  const MemorySource unknown({grouped(), {0.1F, 2.0F, 0.2F, 0.1F, 3.0F, 0.2F}, {0, 1}, {}});
  EXPECT_THAT([&] { require_known_groups(network.module(), unknown); },
              ThrowsMessage<DataError>(HasSubstr("group is 3")));
}

}  // namespace
}  // namespace credence
