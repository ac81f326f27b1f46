// Networks with latent variables: a linear vae whose evidence and posterior are known in closed form, and the sum over
// depths against enumeration and the score-function estimator.
#include "credence/likelihoods/latent.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/networks/adaptive_depth.h"
#include "credence/networks/network.h"
#include "credence/networks/vae.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::int64_t kExamples = 4, kInputs = 3, kLatent = 2;
constexpr double kNoise = 0.7;

/// Factor analysis: x = W z + b + noise. Columns of W are orthogonal, so the posterior of z is of q's family.
struct LinearVae {
  Vae module{VaeImpl::Sizes{.inputs = kInputs, .latent = kLatent, .widths = {}, .outputs = kInputs}};
  VaeLikelihood likelihood{
      .values = VaeLikelihood::Values::gaussian, .columns = kInputs, .scale = kNoise, .normalization = {}};
  torch::Tensor weight = torch::tensor({1.2, 0.5, -0.6, 1.0, 0.4, -0.25}, torch::kFloat64).view({kInputs, kLatent});
  torch::Tensor bias = torch::tensor({0.3, -0.2, 0.1}, torch::kFloat64);
  torch::Tensor precision, x, targets;

  LinearVae() {
    const torch::NoGradGuard no_grad;
    weight.select(1, 1) -= weight.select(1, 0) * (weight.select(1, 0).dot(weight.select(1, 1)) /
                                                  weight.select(1, 0).dot(weight.select(1, 0)));
    module->to(torch::kFloat64);
    precision = 1.0 + (weight * weight).sum(0) / (kNoise * kNoise);  // of z given x, diagonal
    const torch::Tensor to_mean = weight.t() / precision.unsqueeze(1) / (kNoise * kNoise);
    for (auto& item : module->named_parameters()) {
      torch::Tensor& value = item.value();
      if (item.key() == "decoder.fc1.weight") value.copy_(weight);
      if (item.key() == "decoder.fc1.bias") value.copy_(bias);
      if (item.key() == "encoder.fc1.weight") value.copy_(torch::cat({to_mean, torch::zeros_like(to_mean)}));
      if (item.key() == "encoder.fc1.bias") value.copy_(torch::cat({-to_mean.mv(bias), -precision.log()}));
    }
    Batch batch;
    batch.size = kExamples;
    for (int i = 0; i < kExamples * kInputs; ++i) batch.inputs.push_back(static_cast<float>(std::sin(3.0 * i + 0.5)));
    targets = vae_targets(likelihood, batch, torch::kFloat64);
    x = targets;
  }

  /// log N(x; b, W W^T + s^2 I)
  torch::Tensor evidence() const {
    const torch::Tensor covariance = weight.mm(weight.t()) + kNoise * kNoise * torch::eye(kInputs, torch::kFloat64);
    const torch::Tensor error = x - bias;
    return ((error.mm(covariance.inverse()) * error).sum(1) + covariance.logdet() +
            kInputs * std::log(2.0 * std::numbers::pi)) *
           -0.5;
  }
};

TEST(LinearVae, WeightIsTheEvidenceWhateverIsDrawnWhereTheEncoderIsThePosterior) {
  LinearVae vae;
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  for (int draw = 0; draw < 5; ++draw) {
    const torch::Tensor weights = log_likelihoods(vae.likelihood, vae.module->forward(vae.x), vae.targets);
    EXPECT_TRUE(torch::allclose(weights, vae.evidence(), 1e-12, 1e-12)) << weights << vae.evidence();
  }
}

TEST(LinearVae, BoundsAreOrderedAndMeetTheirClosedForms) {
  LinearVae vae;
  const torch::NoGradGuard no_grad;
  const double shift = 0.4, widen = 0.3;  // of q's mean, and of its log variance
  torch::Tensor code_bias = vae.module->named_parameters()["encoder.fc1.bias"];
  code_bias.narrow(0, 0, kLatent) += shift;
  code_bias.narrow(0, kLatent, kLatent) += widen;
  // KL(q || posterior) of every example, both diagonal.
  const double ratio = std::exp(widen);
  const double kl = 0.5 * (vae.precision * shift * shift + ratio - 1.0 - widen).sum().item<double>();
  torch::manual_seed(5);
  constexpr int kDraws = 4000, kChunk = 50;
  const torch::Tensor many = vae.x.repeat({kDraws, 1});
  const torch::Tensor outputs = vae.module->forward(many);
  const torch::Tensor targets = vae.targets.repeat({kDraws, 1});
  const torch::Tensor weights = log_likelihoods(vae.likelihood, outputs, targets).view({kDraws, kExamples});
  const torch::Tensor elbos = expected_log_likelihoods(vae.likelihood, outputs, targets).view({kDraws, kExamples});
  const torch::Tensor exact = vae.evidence();
  for (const torch::Tensor& estimates : {weights, elbos}) {
    const torch::Tensor error = estimates.std(0) / std::sqrt(static_cast<double>(kDraws));
    EXPECT_TRUE(((estimates.mean(0) - (exact - kl)).abs() < 5.0 * error).all().item<bool>()) << estimates.mean(0);
  }
  EXPECT_NEAR(-mean_negative_log_likelihood(vae.likelihood, outputs, targets).item<double>(),
              elbos.mean().item<double>(), 1e-12);
  // The mean over chunks of log-mean-exp of 50: above the ELBO, below the evidence.
  const torch::Tensor chunks = weights.view({kDraws / kChunk, kChunk, kExamples});
  const torch::Tensor bounds = torch::logsumexp(chunks, 1) - std::log(static_cast<double>(kChunk));
  const torch::Tensor error = bounds.std(0) / std::sqrt(static_cast<double>(kDraws) / kChunk);
  EXPECT_TRUE((bounds.mean(0) - 5.0 * error > exact - kl).all().item<bool>()) << bounds.mean(0) << exact - kl;
  EXPECT_TRUE((bounds.mean(0) < exact + 5.0 * error).all().item<bool>()) << bounds.mean(0) << exact;
  // All draws together: their weights average to the evidence.
  const torch::Tensor ratios = (weights - exact).exp();
  const torch::Tensor ratio_error = ratios.std(0) / std::sqrt(static_cast<double>(kDraws));
  EXPECT_TRUE(((ratios.mean(0) - 1.0).abs() < 5.0 * ratio_error).all().item<bool>()) << ratios.mean(0);
}

TEST(VaeLikelihood, PixelsAreBinarisedAndCutIntoLevels) {
  ExampleSpec spec;
  spec.input_shape = {1, 1, 4};
  spec.classes = 10;
  spec.normalization = {{0.25}, {0.5}};
  Batch batch;
  batch.size = 1;
  batch.labels = {3};
  for (const double byte : {0.0, 15.0, 128.0, 255.0}) batch.inputs.push_back(spec.normalization.apply(byte, 0));
  const Likelihood binary = parse_likelihood("vae-bernoulli", spec);
  EXPECT_TRUE(torch::equal(target_tensor(binary, batch, torch::kFloat32), torch::tensor({{0.0F, 0.0F, 1.0F, 1.0F}})));
  EXPECT_EQ(output_size(binary), 4);
  EXPECT_EQ(columns_read(binary), 6);
  const Likelihood levels = parse_likelihood("vae-categorical:16", spec);
  EXPECT_TRUE(torch::equal(target_tensor(levels, batch, torch::kFloat32), torch::tensor({{0L, 0L, 8L, 15L}})));
  EXPECT_EQ(output_size(levels), 64);
  // Decoded logits log(1 ... 16) give level k the probability (k + 1) / 136.
  torch::Tensor outputs = torch::arange(1, 17, torch::kFloat64).log().repeat({1, 4});
  outputs = torch::cat({outputs, torch::tensor({{0.5, 0.25}}, torch::kFloat64)}, 1);
  const double reconstruction = std::log(1.0 * 1.0 * 9.0 * 16.0 / std::pow(136.0, 4.0));
  const torch::Tensor targets = target_tensor(levels, batch, torch::kFloat64);
  EXPECT_NEAR(log_likelihoods(levels, outputs, targets).item<double>(), reconstruction - 0.5, 1e-12);
  EXPECT_NEAR(expected_log_likelihoods(levels, outputs, targets).item<double>(), reconstruction - 0.25, 1e-12);
  EXPECT_FALSE(is_classification(levels) || is_regression(levels));
}

TEST(VaeLikelihood, RefusesWhatDoesNotFit) {
  ExampleSpec table;
  table.input_shape = {2};
  table.classes = 2;
  EXPECT_THAT([&] { parse_likelihood("vae-categorical", table); }, ThrowsMessage<UserError>(HasSubstr("pixels")));
  const Likelihood binary = parse_likelihood("vae-bernoulli", table);
  Batch batch;
  batch.size = 1;
  batch.inputs = {0.0F, 0.5F};
  EXPECT_THAT([&] { target_tensor(binary, batch, torch::kFloat32); }, ThrowsMessage<DataError>(HasSubstr("0 or 1")));
  const auto mlp = build_module("mlp:4", table, 2, 0);
  EXPECT_THAT([&] { likelihood_of(binary, *mlp.ptr()); }, ThrowsMessage<UserError>(HasSubstr("--network vae")));
  const auto vae = build_module("vae:1", table, 2, 0);
  EXPECT_THAT([&] { likelihood_of(CategoricalLikelihood{2}, *vae.ptr()); },
              ThrowsMessage<UserError>(HasSubstr("vae-bernoulli")));
}

constexpr std::int64_t kDepths = 4, kClasses = 3;

struct DepthCase {
  DepthLikelihood likelihood{std::make_shared<const Likelihood>(CategoricalLikelihood{kClasses}), kDepths};
  torch::Tensor logits, log_q, kl, outputs, targets;

  DepthCase() {
    torch::manual_seed(7);
    const auto options = torch::TensorOptions().dtype(torch::kFloat64);
    logits = torch::randn({kExamples, kDepths, kClasses}, options);
    log_q = torch::log_softmax(torch::randn({kExamples, kDepths}, options), 1);
    kl = torch::rand({kExamples, 1}, options);
    outputs = torch::cat({logits.flatten(1), log_q, kl}, 1);
    targets = torch::tensor({0L, 2L, 1L, 1L});
  }
};

TEST(DepthLikelihood, IsTheSumOverDepths) {
  const DepthCase c;
  ASSERT_EQ(columns_read(c.likelihood), c.outputs.size(1));
  const torch::Tensor bounds = expected_log_likelihoods(c.likelihood, c.outputs, c.targets);
  const torch::Tensor at_mode = log_likelihoods(c.likelihood, c.outputs, c.targets);
  const torch::Tensor probabilities = class_probabilities(c.likelihood, c.outputs);
  double total = 0.0;
  for (std::int64_t i = 0; i < kExamples; ++i) {
    double bound = -c.kl[i][0].item<double>();
    double best = -1.0;
    std::int64_t mode = 0;
    std::vector<double> log_p;
    for (std::int64_t l = 0; l < kDepths; ++l) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < kClasses; ++k) sum += std::exp(c.logits[i][l][k].item<double>());
      log_p.push_back(c.logits[i][l][c.targets[i].item<std::int64_t>()].item<double>() - std::log(sum));
      const double q = std::exp(c.log_q[i][l].item<double>());
      bound += q * log_p.back();
      if (q > best) {
        best = q;
        mode = l;
      }
    }
    total -= bound;
    EXPECT_NEAR(bounds[i].item<double>(), bound, 1e-12);
    EXPECT_NEAR(at_mode[i].item<double>(), log_p[static_cast<std::size_t>(mode)], 1e-12);
    EXPECT_NEAR(probabilities[i][c.targets[i].item<std::int64_t>()].item<double>(),
                std::exp(log_p[static_cast<std::size_t>(mode)]), 1e-12);
  }
  EXPECT_NEAR(mean_negative_log_likelihood(c.likelihood, c.outputs, c.targets).item<double>(), total / kExamples,
              1e-12);
}

TEST(DepthLikelihood, CarriesTheParametersOfTheInnerLikelihood) {
  const DepthLikelihood depth{std::make_shared<const Likelihood>(LearnedGaussianLikelihood{1}), 2};
  ASSERT_EQ(columns_read(depth), 6);
  ASSERT_EQ(initial_raw_scales(depth).size(), 1U);
  // Means 1 and 3, q 0.25 and 0.75, no KL, softplus(raw scale) = 2.
  const torch::Tensor outputs =
      torch::tensor({{1.0, 3.0, std::log(0.25), std::log(0.75), 0.0, std::log(std::expm1(2.0))}}, torch::kFloat64);
  const torch::Tensor y = torch::tensor({{2.0}}, torch::kFloat64);
  const double log_p = -0.5 * 0.25 - std::log(2.0) - 0.5 * std::log(2.0 * std::numbers::pi);
  EXPECT_NEAR(expected_log_likelihoods(depth, outputs, y).item<double>(), log_p, 1e-12);
  EXPECT_NEAR(log_likelihoods(depth, outputs, y).item<double>(), log_p, 1e-12);
}

AdaptiveDepth deep_network(bool per_input) {
  ExampleSpec spec;
  spec.input_shape = {2};
  const auto any =
      build_module(fmt::format("adaptive-depth:{},width=8,prior=geometric:0.3{}", kDepths, per_input ? ",input" : ""),
                   spec, kClasses, 11);
  AdaptiveDepth network = std::dynamic_pointer_cast<AdaptiveDepthImpl>(any.ptr());
  network->to(torch::kFloat64);
  torch::manual_seed(13);
  const torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : network->parameters()) parameter.add_(torch::randn_like(parameter), 0.5);
  return network;
}

/// Score-function estimator (Williams 1992) of the gradient of E_q[log p(y | l)], with the mean as baseline.
TEST(AdaptiveDepth, ScoreFunctionEstimatorAgreesWithTheExactGradient) {
  AdaptiveDepth network = deep_network(false);
  const DepthLikelihood likelihood{std::make_shared<const Likelihood>(CategoricalLikelihood{kClasses}), kDepths};
  torch::manual_seed(17);
  const torch::Tensor x = torch::randn({kExamples, 2}, torch::kFloat64);
  const torch::Tensor y = torch::tensor({0L, 2L, 1L, 1L});
  torch::Tensor logits = network->named_parameters()["depth_logits"];
  torch::Tensor first = network->named_parameters()["block1_fc1.weight"];
  const auto exact =
      torch::autograd::grad({mean_negative_log_likelihood(likelihood, network->forward(x), y)}, {logits, first});
  std::vector<double> loss;
  std::vector<torch::Tensor> of_weights;  // gradient of the loss at each depth
  for (std::int64_t l = 0; l < kDepths; ++l) {
    const torch::Tensor at = torch::cross_entropy_loss(outputs_at_depth(likelihood, network->forward(x), l), y);
    loss.push_back(at.item<double>());
    of_weights.push_back(torch::autograd::grad({at}, {first})[0]);
  }
  const torch::Tensor q = torch::softmax(logits.detach(), 0);
  constexpr std::int64_t kDraws = 20000;
  const torch::Tensor depths = torch::multinomial(q, kDraws, /*replacement=*/true);
  const torch::Tensor losses = torch::tensor(loss, torch::kFloat64);
  const torch::Tensor scores = torch::one_hot(depths, kDepths).to(torch::kFloat64) - q;  // of log q
  const auto agrees = [&](const torch::Tensor& draws, const torch::Tensor& expected) {
    const torch::Tensor error = draws.std(0) / std::sqrt(static_cast<double>(kDraws));
    const torch::Tensor distance = (draws.mean(0) - expected).abs();
    EXPECT_TRUE((distance <= 5.0 * error + 1e-12).all().item<bool>()) << distance << error;
  };
  agrees(scores * (losses.index_select(0, depths) - losses.mean()).unsqueeze(1), exact[0]);
  agrees(torch::stack(of_weights).index_select(0, depths), exact[1]);
  EXPECT_GT(exact[0].abs().max().item<double>(), 0.01);
}

TEST(AdaptiveDepth, HaltsAtTheModeWithTheSamePredictions) {
  for (const bool per_input : {false, true}) {
    AdaptiveDepth network = deep_network(per_input);
    const DepthLikelihood likelihood{std::make_shared<const Likelihood>(CategoricalLikelihood{kClasses}), kDepths};
    const torch::NoGradGuard no_grad;
    network->eval();
    const torch::Tensor x = torch::randn({40, 2}, torch::kFloat64);
    const torch::Tensor halted = network->forward(x);
    network->set_halting(false);
    const torch::Tensor whole = network->forward(x);
    EXPECT_TRUE(torch::allclose(outputs_at_mode(likelihood, halted), outputs_at_mode(likelihood, whole), 1e-12, 1e-12));
    const torch::Tensor modes = log_depth_probabilities(likelihood, whole).argmax(1);
    EXPECT_EQ(std::get<0>(at::_unique(modes)).numel() > 1, per_input) << modes;
    const torch::Tensor deepest = outputs_at_depth(likelihood, halted, kDepths - 1);
    EXPECT_TRUE(torch::equal(deepest.abs().sum(1).gt(0.0), modes.eq(kDepths - 1)));
    EXPECT_FALSE(torch::allclose(halted, whole));
  }
}

TEST(AdaptiveDepth, BeginsAtThePriorAndTellsTheKlOfEachInput) {
  ExampleSpec spec;
  spec.input_shape = {2};
  for (const char* arguments : {"4,prior=poisson:2", "4,prior=poisson:2,input"}) {
    const auto any = build_module(std::string("adaptive-depth:") + arguments, spec, kClasses, 1);
    auto network = std::dynamic_pointer_cast<AdaptiveDepthImpl>(any.ptr());
    const torch::NoGradGuard no_grad;
    const torch::Tensor outputs = network->forward(torch::randn({5, 2}));
    const DepthLikelihood likelihood{std::make_shared<const Likelihood>(CategoricalLikelihood{kClasses}), kDepths};
    // 2^l / l! for l = 1 ... 4: 2, 2, 4/3, 2/3 of 6.
    const torch::Tensor prior = torch::tensor({2.0, 2.0, 4.0 / 3.0, 2.0 / 3.0}) / 6.0;
    EXPECT_TRUE(torch::allclose(log_depth_probabilities(likelihood, outputs).exp(), prior.expand({5, 4}), 1e-5, 1e-6));
    EXPECT_TRUE(torch::allclose(outputs.select(1, outputs.size(1) - 1), torch::zeros({5}), 1e-5, 1e-6));
  }
  AdaptiveDepth network = deep_network(true);
  const torch::NoGradGuard no_grad;
  const torch::Tensor outputs = network->forward(torch::randn({5, 2}, torch::kFloat64));
  const DepthLikelihood likelihood{std::make_shared<const Likelihood>(CategoricalLikelihood{kClasses}), kDepths};
  const torch::Tensor log_q = log_depth_probabilities(likelihood, outputs);
  double sum = 0.0;
  std::vector<double> log_p;
  for (int l = 0; l < kDepths; ++l) sum += std::pow(0.7, l);
  for (int l = 0; l < kDepths; ++l) log_p.push_back(std::log(std::pow(0.7, l) / sum));
  const torch::Tensor kl = (log_q.exp() * (log_q - torch::tensor(log_p, torch::kFloat64))).sum(1);
  EXPECT_TRUE(torch::allclose(outputs.select(1, outputs.size(1) - 1), kl, 1e-12, 1e-12));
}

}  // namespace
}  // namespace credence
