// Flipout and local reparameterisation against their definitions: the loss as a function of means and scales for noise
// named as documented, example by example (Flipout: each with weights of its own) or position by position (local), and
// its central differences.
#include <gmock/gmock.h>

#include <algorithm>

#include "credence/base/errors.h"
#include "credence/priors/density.h"
#include "unit/estimators/cases.h"

namespace credence {
namespace {

using test::Problem;
using test::ProblemOptions;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Case {
  const char* name = "";
  const char* estimator = "";
  ProblemOptions problem = {};
  int shards = 2;
  int samples = 1;
  NoiseSharing noise = NoiseSharing::shared;
};

constexpr std::int64_t kStep = 5;
constexpr std::uint64_t kSeed = 11;
constexpr double kPriorWeight = 0.05;

/// A tensor of the posterior by the network's name, at given means and scales.
struct Values {
  torch::Tensor mean, scale;
};

/// The noisy loss of the networks `mlp:W,tanh` (layers fc1, fc2) and `convolved` (conv, last) by their definitions.
class NoisyOracle {
 public:
  NoisyOracle(const Problem& problem, const Case& c, std::vector<Examples> shards)
      : problem_(problem), case_(c), shards_(std::move(shards)) {}

  /// Mean over shards and samples, with -log p(w) of the priors charged at draws.
  double loss(const torch::Tensor& mean, const torch::Tensor& scale) {
    mean_ = mean;
    scale_ = scale;
    double sum = 0.0;
    for (shard_ = 0; shard_ < case_.shards; ++shard_) {
      for (sample_ = 0; sample_ < case_.samples; ++sample_) {
        const Examples& examples = shards_[static_cast<std::size_t>(shard_)];
        sum += test::nll_by_definition(problem_.likelihood, outputs(examples.inputs), examples.targets);
        sum += kPriorWeight * prior_nats();
      }
    }
    return sum / (case_.shards * case_.samples);
  }

 private:
  bool flipout() const { return std::string(case_.estimator) == "flipout"; }

  torch::Tensor outputs(const torch::Tensor& x) {
    if (problem_.options.network != "convolved") {
      return linear(1, "fc2", torch::tanh(linear(0, "fc1", x)));
    }
    const torch::Tensor images = torch::constant_pad_nd(x.view({-1, 2, 4, 4}), {1, 1, 1, 1});
    torch::Tensor hidden = torch::empty({x.size(0), 3, 2, 2}, torch::kFloat64);
    for (std::int64_t row = 0; row < 2; ++row) {
      for (std::int64_t column = 0; column < 2; ++column) {
        const torch::Tensor patch = images.narrow(2, 2 * row, 3).narrow(3, 2 * column, 3);  // stride 2
        hidden.select(3, column).select(2, row).copy_(convolved(patch, row * 2 + column));
      }
    }
    return linear(1, "last", torch::tanh(hidden).flatten(1));
  }

  int slot(const std::string& name) const {
    const auto& slots = problem_.network.layout().slots;
    const auto found = std::find_if(slots.begin(), slots.end(), [&](const Slot& s) { return s.name == name; });
    return static_cast<int>(found - slots.begin());
  }
  Values values(const std::string& name) const {
    return {problem_.posterior.view(mean_, slot(name)), problem_.posterior.view(scale_, slot(name))};
  }
  /// scale * eps of the weight draw.
  torch::Tensor deviation(const std::string& name) const {
    const Slot& place = problem_.network.layout().slots[static_cast<std::size_t>(slot(name))];
    kernels::NoiseStream noise{
        .seed = kSeed, .step = static_cast<std::uint32_t>(kStep), .sample = static_cast<std::uint32_t>(sample_)};
    if (case_.noise == NoiseSharing::shard) noise.shard = static_cast<std::uint32_t>(shard_);
    torch::Tensor eps = torch::empty(place.shape, torch::kFloat64);
    for (std::int64_t i = 0; i < place.count; ++i)
      eps.view(-1)[i] = static_cast<double>(kernels::standard_normal(noise, place.offset + i));
    return values(name).scale * eps;
  }
  kernels::NoiseStream layer_noise(kernels::Purpose purpose, int layer) const {
    return {.seed = kSeed,
            .purpose = purpose,
            .step = static_cast<std::uint32_t>(kStep),
            .shard = static_cast<std::uint32_t>(shard_),
            .sample = static_cast<std::uint32_t>(2 * sample_ + layer)};  // two layers
  }
  /// +-1 of one example's units.
  torch::Tensor signs(int layer, std::int64_t example, std::int64_t units) const {
    const kernels::NoiseStream noise = layer_noise(kernels::Purpose::signs, layer);
    const std::int64_t words = (units + 31) / 32;
    torch::Tensor result = torch::empty({units}, torch::kFloat64);
    for (std::int64_t unit = 0; unit < units; ++unit) {
      const std::uint32_t word = kernels::random_word(noise, example * words + unit / 32);
      result[unit] = (word >> (unit % 32)) % 2 == 1 ? -1.0 : 1.0;
    }
    return result;
  }
  double normal(int layer, std::int64_t element) const {
    return static_cast<double>(kernels::standard_normal(layer_noise(kernels::Purpose::activations, layer), element));
  }

  torch::Tensor linear(int layer, const std::string& name, const torch::Tensor& x) const {
    const Values w = values(name + ".weight"), b = values(name + ".bias");
    const std::int64_t inputs = x.size(1), outputs = w.mean.size(0);
    torch::Tensor y = torch::empty({x.size(0), outputs}, torch::kFloat64);
    for (std::int64_t n = 0; n < x.size(0); ++n) {
      if (flipout()) {
        const torch::Tensor sign = signs(layer, n, inputs + outputs);
        const torch::Tensor s = sign.narrow(0, 0, inputs), r = sign.narrow(0, inputs, outputs);
        const torch::Tensor weight = w.mean + deviation(name + ".weight") * torch::outer(r, s);
        y[n].copy_(weight.mv(x[n]) + b.mean + deviation(name + ".bias") * r);
        continue;
      }
      for (std::int64_t o = 0; o < outputs; ++o) {
        const double centre = (w.mean[o].dot(x[n]) + b.mean[o]).item<double>();
        const double variance = (w.scale[o].square().dot(x[n].square()) + b.scale[o].square()).item<double>();
        y[n][o] = centre + std::sqrt(variance) * normal(layer, n * outputs + o);
      }
    }
    return y;
  }

  /// One position [B, 3] of the convolution of patches [B, 2, 3, 3].
  torch::Tensor convolved(const torch::Tensor& patch, std::int64_t position) const {
    const Values w = values("conv.weight"), b = values("conv.bias");
    torch::Tensor y = torch::empty({patch.size(0), 3}, torch::kFloat64);
    for (std::int64_t n = 0; n < patch.size(0); ++n) {
      const torch::Tensor sign = flipout() ? signs(0, n, 5) : torch::Tensor();
      for (std::int64_t o = 0; o < 3; ++o) {
        if (flipout()) {
          const torch::Tensor own =
              w.mean[o] + deviation("conv.weight")[o] * sign[2 + o] * sign.narrow(0, 0, 2).view({2, 1, 1});
          y[n][o] = (own * patch[n]).sum() + b.mean[o] + deviation("conv.bias")[o] * sign[2 + o];
        } else {
          const double centre = ((w.mean[o] * patch[n]).sum() + b.mean[o]).item<double>();
          const double variance =
              ((w.scale[o].square() * patch[n].square()).sum() + b.scale[o].square()).item<double>();
          y[n][o] = centre + std::sqrt(variance) * normal(0, (n * 3 + o) * 4 + position);
        }
      }
    }
    return y;
  }

  /// -log p of the weight draw, where priors are charged at draws.
  double prior_nats() const {
    double sum = 0.0;
    const PosteriorPlan& plan = problem_.posterior.plan();
    for (const PriorTerm& term : plan.terms) {
      const Slot& place = plan.layout.slots[static_cast<std::size_t>(term.slot)];
      const torch::Tensor weight = values(place.name).mean + deviation(place.name);
      sum += negative_log_density_nats(term.prior, place, weight).item<double>();
    }
    return sum;
  }

  const Problem& problem_;
  const Case& case_;
  std::vector<Examples> shards_;
  torch::Tensor mean_, scale_;
  int shard_ = 0, sample_ = 0;
};

std::vector<Case> cases() {
  const ProblemOptions images{.network = "convolved", .inputs = 32};
  // 40 inputs and 4 outputs: signs of an example fill more than one word.
  const ProblemOptions wide{.inputs = 40};
  const ProblemOptions mixed{.families = {"mean-field", "fc1.bias=point", "fc2=point"}};
  std::vector<Case> list;
  for (const char* estimator : {"flipout", "local-reparam"}) {
    const std::string short_name = estimator[0] == 'f' ? "flipout" : "local";
    const auto add = [&](const char* name, Case c) {
      c.name = name;
      c.estimator = estimator;
      list.push_back(std::move(c));
    };
    add("mlp", {});
    add("shard_samples", {.samples = 2, .noise = NoiseSharing::shard});
    add("wide", {.problem = wide});
    add("convolved", {.problem = images});
    add("point_tensors", {.problem = mixed});
    add("charged_prior", {.problem = {.priors = {"student-t:4,0.8"}}});
  }
  return list;
}

class NoisyGradient : public ::testing::TestWithParam<Case> {};

constexpr double kDifference = 1e-5;
constexpr double kTolerance = 1e-7;  // as in gradient_test.cpp

TEST_P(NoisyGradient, EqualsCentralDifferencesOfTheDefinition) {
  const Case& c = GetParam();
  Problem problem(c.problem);
  const auto communicator = make_self_communicator();
  const auto shards = test::examples_of(problem, c.shards, 3);
  const auto estimator =
      test::make_estimator(c.estimator, problem.parts(*communicator),
                           {.seed = kSeed, .shards = c.shards, .samples = c.samples, .noise = c.noise});
  const StepTotals totals = estimator->run(kStep, test::source_of(shards), {}, kPriorWeight);
  const GradientSum gradient = estimator->gradient();
  ASSERT_TRUE(gradient.scaled.defined());

  NoisyOracle oracle(problem, c, shards);
  torch::Tensor mean = problem.posterior.mean().clone(), scale = problem.posterior.scales();
  const double expected_loss = oracle.loss(mean, scale);
  double charged = 0.0;
  for (const double nats : totals.prior_nats) charged += kPriorWeight * nats;
  EXPECT_NEAR(totals.minimised_nll + charged, expected_loss, 1e-11);

  const auto difference = [&](torch::Tensor& values, std::int64_t i) {
    double* at = values.data_ptr<double>() + i;
    const double old = *at;
    *at = old + kDifference;
    const double above = oracle.loss(mean, scale);
    *at = old - kDifference;
    const double below = oracle.loss(mean, scale);
    *at = old;
    return (above - below) / (2.0 * kDifference);
  };
  const auto& layout_slots = problem.network.layout().slots;
  for (std::size_t slot = 0; slot < layout_slots.size(); ++slot) {
    const Slot& place = layout_slots[slot];
    const std::int64_t stride = std::max<std::int64_t>(place.count / 12, 1);  // a dozen elements of each tensor
    for (std::int64_t i = 0; i < place.count; i += stride) {
      const std::string where = place.name + " " + std::to_string(i);
      const double by_mean = difference(mean, place.offset + i);
      EXPECT_NEAR(gradient.slots[slot].view(-1)[i].item<double>() * estimator->gradient_multiplier(), by_mean,
                  kTolerance * (1.0 + std::abs(by_mean)))
          << where << " mean";
      if (!problem.posterior.segments()[slot].gaussian) continue;
      const double by_scale = difference(scale, place.offset + i);
      EXPECT_NEAR(gradient.scaled[place.offset + i].item<double>() * estimator->gradient_multiplier(), by_scale,
                  kTolerance * (1.0 + std::abs(by_scale)))
          << where << " scale";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, NoisyGradient, ::testing::ValuesIn(cases()), [](const auto& test) {
  return std::string(test.param.estimator[0] == 'f' ? "flipout_" : "local_") + test.param.name;
});

/// The loss of plain weight noise for the same draws.
double loss_of_draws(const ProblemOptions& options, const std::vector<Examples>& shards) {
  Problem problem(options);
  const auto communicator = make_self_communicator();
  const auto estimator = test::make_estimator("reparam", problem.parts(*communicator), {.seed = kSeed, .shards = 2});
  return estimator->run(kStep, test::source_of(shards), {}).mean_nll;
}

TEST(ReportedLoss, IsThatOfWeightDrawsWhereTheOneMinimisedIsAnother) {
  struct Network {
    const char* name;
    std::int64_t inputs;
    const char* estimator;
    const char* reason;  // empty: the two are the same
  };
  for (const Network& network :
       {Network{"convolved", 32, "local-reparam", "positions of conv"},
        Network{"normalized", 3, "local-reparam", "batch statistics"},
        Network{"normalized", 3, "flipout", "batch statistics"}, Network{"convolved", 32, "flipout", ""},
        Network{"mlp:4,tanh", 3, "local-reparam", ""}}) {
    const ProblemOptions options{.network = network.name, .inputs = network.inputs};
    Problem problem(options);
    const auto shards = test::examples_of(problem, 2, 8);
    const auto communicator = make_self_communicator();
    const auto estimator =
        test::make_estimator(network.estimator, problem.parts(*communicator), {.seed = kSeed, .shards = 2});
    const StepTotals totals = estimator->run(kStep, test::source_of(shards), {});
    const std::string where = std::string(network.estimator) + " on " + network.name;
    if (network.reason[0] == '\0') {
      EXPECT_EQ(totals.mean_nll, totals.minimised_nll) << where;
      EXPECT_EQ(estimator->remark(), "") << where;
      continue;
    }
    EXPECT_THAT(estimator->remark(), ::testing::AllOf(HasSubstr(network.reason), HasSubstr("another objective")));
    EXPECT_NE(totals.mean_nll, totals.minimised_nll) << where;
    EXPECT_EQ(totals.mean_nll, loss_of_draws(options, shards)) << where;
    const ObjectiveValue value =
        evaluate_objective({.dataset_size = 10}, {0.0, 0.0}, {totals.mean_nll, totals.minimised_nll},
                           problem.posterior.plan(), {problem.posterior.measure(), {}});
    EXPECT_DOUBLE_EQ(value.expected_log_likelihood, -10.0 * totals.mean_nll);
    EXPECT_DOUBLE_EQ(value.objective, 10.0 * totals.minimised_nll);
  }
}

TEST(ReportedLoss, LeavesBatchStatisticsToThePassThatLearns) {
  // A batch-norm layer that saw both passes of a shard would count twice.
  Problem problem({.network = "normalized"});
  const auto communicator = make_self_communicator();
  const auto shards = test::examples_of(problem, 2, 8);
  const auto estimator = test::make_estimator("flipout", problem.parts(*communicator), {.seed = kSeed, .shards = 2});
  estimator->run(kStep, test::source_of(shards), {});
  EXPECT_EQ(problem.network.integer_buffers().front().second.item<std::int64_t>(), 1);
}

TEST(Layers, AreLibTorchsOwnWithoutNoise) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({3, 2, 6, 6}), flat = torch::randn({3, 5});
  const auto options = torch::nn::Conv2dOptions(2, 4, 3).stride(2).padding(1).dilation(2).groups(2);
  Conv2d own(options);
  torch::nn::Conv2d reference(options);
  Linear own_linear(torch::nn::LinearOptions(5, 2));
  torch::nn::Linear reference_linear(5, 2);
  const torch::NoGradGuard no_grad;
  reference->weight.copy_(own->weight);
  reference->bias.copy_(own->bias);
  reference_linear->weight.copy_(own_linear->weight);
  reference_linear->bias.copy_(own_linear->bias);
  EXPECT_TRUE(torch::equal(own->forward(x), reference->forward(x)));
  EXPECT_TRUE(torch::equal(own_linear->forward(flat), reference_linear->forward(flat)));
}

TEST(AfterActivationNoise, TheNetworkSeesPlainDrawsAgain) {
  Problem problem;
  const auto communicator = make_self_communicator();
  const auto shards = test::examples_of(problem, 1, 4);
  test::make_estimator("flipout", problem.parts(*communicator), {.seed = kSeed})
      ->run(kStep, test::source_of(shards), {});
  for (std::size_t slot = 0; slot < problem.network.parameters().size(); ++slot) {
    EXPECT_EQ(problem.network.parameters()[slot].data_ptr(),
              problem.posterior.view(problem.posterior.weights(), static_cast<int>(slot)).data_ptr());
  }
  const torch::Tensor once = problem.network.forward(shards[0].inputs);
  EXPECT_TRUE(torch::equal(once, problem.network.forward(shards[0].inputs)));
}

/// LibTorch's own layer, and one of Credence's in two places, which one draw of outputs for each cannot serve.
struct Foreign : torch::nn::Module {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(3, 3));
  torch::Tensor forward(torch::Tensor x) { return fc(x); }
};
struct Tied : torch::nn::Module {
  Linear first = register_module("first", Linear(torch::nn::LinearOptions(3, 3).bias(false)));
  Linear second = register_module("second", first);
  torch::Tensor forward(torch::Tensor x) { return second(torch::tanh(first(x))); }
};

TEST(ActivationNoiseRefusals, NameTheWayOut) {
  const auto communicator = make_self_communicator();
  for (const char* name : {"flipout", "local-reparam"}) {
    Problem dropout({.families = {"dropout:0.2"}, .priors = {"normal:1"}});
    EXPECT_THAT([&] { test::make_estimator(name, dropout.parts(*communicator), {}); },
                ThrowsMessage<UserError>(::testing::AllOf(HasSubstr("dropout:0.2"), HasSubstr("--estimator reparam"))));
    Problem point({.families = {"point"}});
    EXPECT_THAT([&] { test::make_estimator(name, point.parts(*communicator), {}); },
                ThrowsMessage<UserError>(HasSubstr("none")));
    Problem constant({.network = "constant"});
    EXPECT_THAT([&] { test::make_estimator(name, constant.parts(*communicator), {}); },
                ThrowsMessage<UserError>(HasSubstr("credence::Linear")));
    Problem plain;
    EXPECT_THAT(
        [&] {
          test::make_estimator(name, plain.parts(*communicator), {.shards = 2, .noise = NoiseSharing::antithetic});
        },
        ThrowsMessage<UserError>(HasSubstr("--noise shared")));
  }
}

TEST(ActivationNoiseRefusals, CoverModulesWithoutSuchLayers) {
  const auto communicator = make_self_communicator();
  const Likelihood likelihood = CategoricalLikelihood{3};
  for (const torch::nn::AnyModule& module :
       {torch::nn::AnyModule(std::make_shared<Foreign>()), torch::nn::AnyModule(std::make_shared<Tied>())}) {
    Network network(module, torch::kFloat64);
    Posterior posterior(plan_posterior(network.layout(), parse_families({}), parse_priors({})), network.values(), 0.3,
                        1);
    EXPECT_THAT(
        [&] {
          test::make_estimator("flipout", {network, posterior, likelihood, *communicator}, {});
        },
        ThrowsMessage<UserError>(HasSubstr("this network has none")));
  }
}

TEST(ActivationNoiseRefusals, NameLayersOfTokensBeforeAnyStep) {
  const auto communicator = make_self_communicator();
  const Likelihood likelihood = CategoricalLikelihood{3};
  ExampleSpec images;
  images.input_shape = {1, 8, 8};
  const auto make = [&](const std::vector<std::string>& families) {
    Network network(build_module("vit:4,1,8,2", images, 3, 3), torch::kFloat64);
    Posterior posterior(plan_posterior(network.layout(), parse_families(families), parse_priors({})), network.values(),
                        0.3, 1);
    test::make_estimator("flipout", {network, posterior, likelihood, *communicator}, {});
  };
  EXPECT_THAT([&] { make({}); }, ThrowsMessage<UserError>(::testing::AllOf(HasSubstr("out_proj"), HasSubstr("tokens"),
                                                                           HasSubstr("--estimator reparam"))));
  EXPECT_NO_THROW(make({"point", "heads=mean-field"}));
}

}  // namespace
}  // namespace credence
