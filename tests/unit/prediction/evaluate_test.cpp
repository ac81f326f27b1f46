#include "credence/prediction/evaluate.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>

#include "cases.h"
#include "credence/prediction/dataset_sums.h"

namespace credence {
namespace {

using test::made_up_data;
using test::Model;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::unique_ptr<Communicator> self() {
  return make_self_communicator();
}

Batch whole(const DataSource& source) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(source.size()));
  std::iota(all.begin(), all.end(), 0);
  Batch batch;
  source.read(all, batch);
  return batch;
}

/// y = w x with w ~ N(m, s^2), noise sigma, prior N(0, prior^2): everything has a closed form.
class OneWeight : public testing::Test {
 protected:
  static constexpr double kMean = 0.8, kScale = 0.3, kNoise = 0.5, kPrior = 1.5;
  static constexpr int kDraws = 4096;
  static constexpr double kSigmas = 5.0;  // 6e-7 of a normal quantity

  OneWeight()
      : model_("linear:nobias", fmt::format("gaussian:{}", kNoise), source_.spec(),
               {.posterior = "mean-field", .initial_scale = kScale, .prior_scale = kPrior, .dtype = torch::kFloat64}) {
    torch::Tensor mean = model_.posterior.mean();
    mean.narrow(0, 0, 1).fill_(kMean);
    EvaluationParts parts = model_.parts(source_, *communicator_);
    parts.training = &source_;
    result_ = evaluate(parts, {.samples = kDraws, .seed = 11, .block = 8});
  }

  ElboEstimate elbo_of(Posterior& posterior, int draws) {
    EvaluationParts parts{.network = model_.network,
                          .posterior = posterior,
                          .likelihood = model_.likelihood,
                          .source = source_,
                          .communicator = *communicator_};
    parts.training = &source_;
    return evaluate(parts, {.samples = draws, .seed = 11, .block = 8}).elbo.value();
  }

  /// Of the mean over draws of log likelihood and log p(w), p normal about 0: a quadratic of eps, constant + linear eps
  /// + quadratic eps^2.
  double standard_error(double mean, double prior_precision, int draws) const {
    double xx = 0.0, xy = 0.0;
    for (std::size_t i = 0; i < data_.inputs.size(); ++i) {
      xx += std::pow(data_.inputs[i], 2);
      xy += static_cast<double>(data_.inputs[i]) * data_.targets[i];
    }
    const double precision = 1.0 / (kNoise * kNoise);
    const double linear = kScale * (precision * (xy - mean * xx) - prior_precision * mean);
    const double quadratic = -0.5 * kScale * kScale * (precision * xx + prior_precision);
    return std::sqrt((linear * linear + 2.0 * quadratic * quadratic) / draws);
  }
  /// Relative. The kurtosis of a linear-quadratic form of one normal variable is at most 15.
  static inline const double kErrorOfError = kSigmas * std::sqrt(14.0 / (4.0 * kDraws));

  static double normal_density(double deviation, double variance) {
    return std::exp(-0.5 * deviation * deviation / variance) / std::sqrt(2.0 * std::numbers::pi * variance);
  }

  MemorySource source_{made_up_data({1}, 0, 20)};
  Batch data_ = whole(source_);
  std::unique_ptr<Communicator> communicator_ = self();
  Model model_;
  Evaluation result_;
};

TEST_F(OneWeight, PredictiveMeanAndDeviationAreTheClosedForm) {
  for (std::size_t i = 0; i < data_.inputs.size(); ++i) {
    const double x = data_.inputs[i];
    const double spread = kScale * std::abs(x);
    EXPECT_NEAR(result_.regression->mean[i], kMean * x, kSigmas * spread / std::sqrt(kDraws));
    const double variance = std::pow(result_.regression->scale[i], 2) - kNoise * kNoise;
    EXPECT_NEAR(variance, spread * spread, kSigmas * spread * spread * std::sqrt(2.0 / kDraws) + 1e-12);
  }
}

TEST_F(OneWeight, PredictiveDensityIsTheClosedForm) {
  for (std::size_t i = 0; i < data_.inputs.size(); ++i) {
    const double deviation = data_.targets[i] - kMean * data_.inputs[i];
    const double spread = std::pow(kScale * data_.inputs[i], 2);
    const double density = normal_density(deviation, kNoise * kNoise + spread);
    // E[N(y; w x, sigma^2)^2] = N(deviation; 0, sigma^2 / 2 + spread) / (2 sigma sqrt(pi))
    const double square =
        normal_density(deviation, 0.5 * kNoise * kNoise + spread) / (2.0 * kNoise * std::sqrt(std::numbers::pi));
    // Of the mean over draws; at x = 0, where draws do not differ, rounding may leave less than nothing.
    const double relative_variance = std::max(1e-30, square / (density * density) - 1.0) / kDraws;
    EXPECT_NEAR(result_.regression->log_likelihood[i], std::log(density),
                kSigmas * std::sqrt(relative_variance) + kSigmas * kSigmas * relative_variance + 1e-13);
  }
}

TEST_F(OneWeight, MetricsAreTheMeansOfTheExamples) {
  const RegressionPredictions& examples = *result_.regression;
  double nll = 0.0;
  double squares = 0.0;
  double at_mean = 0.0;
  for (std::size_t i = 0; i < 20; ++i) {
    nll -= examples.log_likelihood[i] / 20.0;
    squares += std::pow(examples.mean[i] - data_.targets[i], 2) / 20.0;
    at_mean -= std::log(normal_density(data_.targets[i] - kMean * data_.inputs[i], kNoise * kNoise)) / 20.0;
  }
  EXPECT_NEAR(*result_.predictive.nll, nll, 1e-13);
  EXPECT_NEAR(*result_.predictive.rmse, std::sqrt(squares), 1e-13);
  EXPECT_NEAR(*result_.mean.nll, at_mean, 1e-13);
  EXPECT_NEAR(*result_.mean.scale, kNoise, 1e-15);
  EXPECT_FALSE(result_.predictive.accuracy || result_.predictive.ece || result_.predictive.entropy);
}

TEST_F(OneWeight, ElboIsTheClosedFormWithinItsStandardError) {
  double xx = 0.0, xy = 0.0, yy = 0.0;
  for (std::size_t i = 0; i < 20; ++i) {
    xx += std::pow(data_.inputs[i], 2);
    xy += static_cast<double>(data_.inputs[i]) * data_.targets[i];
    yy += std::pow(data_.targets[i], 2);
  }
  const double precision = 1.0 / (kNoise * kNoise);
  const double expected = -10.0 * std::log(2.0 * std::numbers::pi * kNoise * kNoise) -
                          0.5 * precision * (yy - 2.0 * kMean * xy + (kMean * kMean + kScale * kScale) * xx);
  const double error = standard_error(kMean, 0.0, kDraws);
  const double kl = 0.5 * (kScale * kScale + kMean * kMean) / (kPrior * kPrior) - 0.5 - std::log(kScale / kPrior);

  ASSERT_TRUE(result_.elbo && result_.elbo->kl && result_.elbo->elbo && result_.elbo->standard_error);
  EXPECT_NEAR(result_.elbo->expected_log_likelihood, expected, kSigmas * error);
  EXPECT_NEAR(*result_.elbo->standard_error / error, 1.0, kErrorOfError);
  EXPECT_NEAR(*result_.elbo->kl, kl, 1e-12);
  EXPECT_NEAR(*result_.elbo->elbo, result_.elbo->expected_log_likelihood - kl, 1e-11);
}

/// A scale mixture of equal parts is a normal prior, but charged at the draws.
TEST_F(OneWeight, StandardErrorOfTheElboCountsPriorsThatAreDrawn) {
  constexpr double kTightPrior = 0.1;
  TensorRules<Prior> priors = parse_priors({});
  priors.fallback = ScaleMixturePrior{0.5, kTightPrior, kTightPrior};
  Posterior posterior(plan_posterior(model_.network.layout(), parse_families({"mean-field"}), priors),
                      model_.posterior.mean().clone(), kScale, 1);
  const double expected = standard_error(kMean, 1.0 / (kTightPrior * kTightPrior), kDraws);
  EXPECT_NEAR(*elbo_of(posterior, kDraws).standard_error / expected, 1.0, kErrorOfError);
}

TEST_F(OneWeight, MembersOfAnEnsembleAreNoChance) {
  constexpr double kOtherMean = -3.0;
  const auto ensemble = [&](const char* family) {
    torch::Tensor means = model_.posterior.mean().repeat({2});
    means[means.numel() / 2] = kOtherMean;
    return Posterior(plan_posterior(model_.network.layout(), parse_families({family}), parse_priors({"normal:1.5"}), 2),
                     means, kScale, 1);
  };
  Posterior random = ensemble("mean-field");
  const double expected = 0.5 * std::hypot(standard_error(kMean, 0.0, kDraws), standard_error(kOtherMean, 0.0, kDraws));
  EXPECT_NEAR(*elbo_of(random, 2 * kDraws).standard_error / expected, 1.0, kErrorOfError);
  Posterior points = ensemble("point");
  EXPECT_FALSE(elbo_of(points, kDraws).standard_error);
}

/// An MLP with three classes, 37 examples in blocks of 8: the last block has five.
class Mlp : public testing::Test {
 protected:
  /// Logits of the present weights, block by block, in float64.
  torch::Tensor logits(const DataSource& source, std::int64_t block = 8) {
    const torch::NoGradGuard no_grad;
    const Batch batch = whole(source);
    const torch::Tensor inputs = torch::tensor(batch.inputs).view({batch.size, -1});
    std::vector<torch::Tensor> parts;
    for (const torch::Tensor& part : inputs.split(block)) parts.push_back(model_.network.forward(part));
    return torch::cat(parts).to(torch::kFloat64);
  }
  Evaluation run(const EvaluationOptions& options) { return evaluate(model_.parts(source_, *communicator_), options); }

  MemorySource source_{made_up_data({4}, 3, 37)};
  torch::Tensor labels_ = torch::tensor(whole(source_).labels);
  std::unique_ptr<Communicator> communicator_ = self();
  Model model_{"mlp:6", "categorical", source_.spec()};
};

TEST_F(Mlp, OneDrawIsPlainEvaluationOfThatDraw) {
  const Evaluation result = run({.samples = 1, .seed = 5, .block = 8});
  model_.posterior.draw({.seed = 5, .purpose = kernels::Purpose::prediction});
  const torch::Tensor outputs = logits(source_);
  EXPECT_NEAR(*result.predictive.nll, torch::cross_entropy_loss(outputs, labels_).item<double>(), 1e-14);
  EXPECT_EQ(*result.predictive.accuracy, outputs.argmax(1).eq(labels_).to(torch::kFloat64).mean().item<double>());
  EXPECT_EQ(*result.predictive.mutual_information, 0.0);
  EXPECT_EQ(result.predictive.samples, 1);
  EXPECT_EQ(result.examples, 37);

  model_.network.bind(model_.posterior.mean());
  EXPECT_NEAR(*result.mean.nll, torch::cross_entropy_loss(logits(source_), labels_).item<double>(), 1e-14);
  EXPECT_NE(*result.mean.nll, *result.predictive.nll);
}

TEST_F(Mlp, ThePredictiveIsTheMeanOverAllDraws) {
  const int draws = 6;
  const Evaluation result = run({.samples = draws, .seed = 5, .block = 8, .keep_probabilities = true});
  torch::Tensor mean = torch::zeros({37, 3}, torch::kFloat64);
  for (std::uint32_t draw = 0; draw < draws; ++draw) {
    model_.posterior.draw({.seed = 5, .purpose = kernels::Purpose::prediction, .sample = draw});
    mean += torch::softmax(logits(source_), 1) / draws;
  }
  const torch::Tensor kept = torch::tensor(result.classes->probabilities, torch::kFloat64).view({37, 3});
  EXPECT_LT((kept - mean).abs().max().item<double>(), 1e-14);
  EXPECT_GT(*result.predictive.mutual_information, 1e-3);
  const torch::Tensor of_labels = mean.gather(1, labels_.unsqueeze(1));
  EXPECT_NEAR(*result.predictive.nll, -of_labels.log().mean().item<double>(), 1e-13);
}

TEST_F(Mlp, BlocksChangeRoundingOnly) {
  const Evaluation small = run({.samples = 4, .block = 5});
  const Evaluation whole_set = run({.samples = 4, .block = 1000});
  // Sums of six products in float32 in another order, through a softmax.
  EXPECT_NEAR(*small.predictive.nll, *whole_set.predictive.nll, 1e-5);
  EXPECT_EQ(small.classes->labels, whole_set.classes->labels);
  EXPECT_EQ(*run({.samples = 4, .block = 5}).predictive.nll, *small.predictive.nll);
}

TEST_F(Mlp, WithoutVarianceTheDrawsAreTheMean) {
  Model narrow("mlp:6", "categorical", source_.spec(), {.posterior = "mean-field", .initial_scale = 1e-12});
  const Evaluation result = evaluate(narrow.parts(source_, *communicator_), {.samples = 7});
  EXPECT_LE(*result.predictive.mutual_information, 1e-14);
  EXPECT_GE(*result.predictive.mutual_information, 0.0);
  EXPECT_NEAR(*result.predictive.nll, *result.mean.nll, 1e-9);
  EXPECT_EQ(*result.predictive.accuracy, *result.mean.accuracy);
}

TEST_F(Mlp, APointPosteriorIsDrawnOnce) {
  Model point("mlp:6", "categorical", source_.spec(), {.posterior = "point"});
  EvaluationParts parts = point.parts(source_, *communicator_);
  parts.training = &source_;
  const Evaluation result = evaluate(parts, {.samples = 32});
  EXPECT_EQ(result.predictive.samples, 1);
  EXPECT_EQ(result.predictive.defined(), result.mean.defined());
  EXPECT_FALSE(result.elbo->elbo || result.elbo->kl || result.elbo->standard_error);
  EXPECT_NEAR(result.elbo->expected_log_likelihood, -37.0 * *result.mean.nll, 1e-12);
}

TEST_F(Mlp, ExtremeLogitsGiveFiniteNumbers) {
  torch::Tensor mean = model_.posterior.mean();
  mean.mul_(1e15F);
  const Evaluation result = run({.samples = 3, .block = 8});
  EXPECT_GT(*result.predictive.nll, 1e20);
  for (const auto& [name, value] : result.predictive.defined()) EXPECT_TRUE(std::isfinite(value)) << name;
}

TEST_F(Mlp, OutputsThatAreNotFiniteNameTheExampleAndLeaveTheNetworkAsItWas) {
  MemoryData data = made_up_data({4}, 3, 37);
  data.inputs[4 * 21] = 3e38F;
  const MemorySource extreme(data);
  torch::Tensor mean = model_.posterior.mean();
  mean.mul_(10.0F);
  EXPECT_THAT([&] { evaluate(model_.parts(extreme, *communicator_), {.samples = 2, .block = 8}); },
              ThrowsMessage<NumericalError>(HasSubstr("of example 21 is")));
  EXPECT_TRUE(model_.network.module().is_training());
  torch::Tensor weights = model_.posterior.weights();
  weights.zero_();
  EXPECT_EQ(logits(source_).abs().max().item<double>(), 0.0);  // bound to the weights, not to the mean
}

TEST_F(Mlp, NoFiniteOutputAtAllIsReportedAlike) {
  torch::Tensor mean = model_.posterior.mean();
  mean.fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT([&] { evaluate(model_.parts(source_, *communicator_), {.samples = 2, .block = 8}); },
              ThrowsMessage<NumericalError>(HasSubstr("of example 0 is")));
}

TEST_F(Mlp, IsRestoredAndInEvaluationModeMeanwhile) {
  struct Probe : torch::nn::Module {
    explicit Probe(torch::nn::AnyModule part) : inner(std::move(part)) { register_module("inner", inner.ptr()); }
    torch::Tensor forward(const torch::Tensor& inputs) {
      in_training = in_training || is_training() || inner.ptr()->is_training();
      with_gradients = with_gradients || torch::GradMode::is_enabled();
      return inner.forward(inputs);
    }
    torch::nn::AnyModule inner;
    bool in_training = false, with_gradients = false;
  };
  auto probe = std::make_shared<Probe>(build_module("linear", source_.spec(), 3, 1));
  Network network{torch::nn::AnyModule(probe)};
  Posterior posterior(plan_posterior(network.layout(), parse_families({}), parse_priors({"normal:1"})),
                      network.values(), 0.1, 1);
  network.bind(posterior.weights());
  EvaluationParts parts{.network = network,
                        .posterior = posterior,
                        .likelihood = model_.likelihood,
                        .source = source_,
                        .communicator = *communicator_};
  network.module().train();
  evaluate(parts, {.samples = 2});
  EXPECT_FALSE(probe->in_training);
  EXPECT_FALSE(probe->with_gradients);
  EXPECT_TRUE(network.module().is_training());
  network.module().eval();
  evaluate(parts, {.samples = 2});
  EXPECT_FALSE(network.module().is_training());
}

TEST_F(Mlp, OutOfDistributionDataAreRankedByEntropy) {
  MemoryData far = made_up_data({4}, 0, 23);  // no labels
  for (float& value : far.inputs) value *= 0.01F;
  const MemorySource ood(far);
  EvaluationParts parts = model_.parts(source_, *communicator_);
  parts.ood = &ood;
  const Evaluation result = evaluate(parts, {.samples = 3, .block = 8});
  ASSERT_EQ(result.ood_entropy.size(), 23U);
  double wins = 0.0;
  for (const double score : result.ood_entropy) {
    for (const double other : result.classes->entropy) wins += score > other ? 1.0 : score == other ? 0.5 : 0.0;
  }
  EXPECT_NEAR(*result.predictive.ood_auroc, wins / (23.0 * 37.0), 1e-14);
  EXPECT_TRUE(result.mean.ood_auroc);
}

TEST_F(Mlp, WhatDoesNotFitIsRefused) {
  const MemorySource narrow(made_up_data({3}, 3, 5));
  EvaluationParts parts = model_.parts(source_, *communicator_);
  parts.ood = &narrow;
  EXPECT_THAT([&] { evaluate(parts, {}); }, ThrowsMessage<UserError>(HasSubstr("inputs [3]")));
  parts.ood = nullptr;
  EXPECT_THAT([&] { evaluate(parts, {.samples = 0}); }, ThrowsMessage<UserError>(HasSubstr("--samples")));

  const MemorySource real(made_up_data({4}, 0, 5));
  Model regression("linear", "gaussian:1", real.spec());
  EvaluationParts without_classes = regression.parts(real, *communicator_);
  without_classes.ood = &real;
  EXPECT_THAT([&] { evaluate(without_classes, {}); }, ThrowsMessage<UserError>(HasSubstr("--ood")));
}

TEST_F(Mlp, JsonHasTheStableNames) {
  EvaluationParts parts = model_.parts(source_, *communicator_);
  parts.ood = parts.training = &source_;
  const nlohmann::json json = to_json(evaluate(parts, {.samples = 2}));
  const std::vector<std::string> names = {"accuracy",           "nll",       "ece",    "adaptive_ece",
                                          "classwise_ece",      "aurc",      "brier",  "entropy",
                                          "mutual_information", "ood_auroc", "samples"};
  for (const std::string& name : names) {
    EXPECT_TRUE(json.at(name).is_number()) << name;
    EXPECT_TRUE(json.at("mean").at(name).is_number()) << name;
  }
  EXPECT_EQ(json.size(), names.size() + 3);  // examples, mean, elbo
  for (const char* name : {"elbo", "elbo_standard_error", "expected_log_likelihood", "kl"}) {
    EXPECT_TRUE(json.at("elbo").at(name).is_number()) << name;
  }
  EXPECT_EQ(json.at("ood_auroc"), 0.5);  // the same data
}

TEST(Bernoulli, OneColumnIsAClassificationOfTwo) {
  const MemorySource source(made_up_data({2}, 2, 30));
  const auto communicator = self();
  Model model("linear", "bernoulli", source.spec());
  const Evaluation result = evaluate(model.parts(source, *communicator), {.samples = 4, .seed = 1, .block = 8});
  // The same by a softmax over (0, logit).
  const BlockShare share(30, 30, *communicator);
  const Likelihood two_classes = CategoricalLikelihood{2};
  PredictionSums sums(two_classes, share, PredictionSums::Content::scored);
  const Batch batch = whole(source);
  for (std::uint32_t draw = 0; draw < 4; ++draw) {
    const torch::NoGradGuard no_grad;
    model.posterior.draw({.seed = 1, .purpose = kernels::Purpose::prediction, .sample = draw});
    const torch::Tensor logit = model.network.forward(torch::tensor(batch.inputs).view({30, 2}));
    sums.add({static_cast<int>(draw), 0, 0, torch::cat({torch::zeros_like(logit), logit}, 1), batch});
  }
  const auto expected = sums.scores(4, 15, false, *communicator).metrics.defined();
  const auto actual = result.predictive.defined();
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i].second, expected[i].second, 1e-6) << actual[i].first;  // logits in float32, other blocks
  }
}

TEST(Bernoulli, SeveralColumnsHaveALikelihoodOnly) {
  MemoryData data = made_up_data({2}, 0, 9, 3);
  for (float& target : data.targets) target = target > 0.0F ? 1.0F : 0.0F;
  const MemorySource source(data);
  const auto communicator = self();
  Model model("linear", "bernoulli", source.spec());
  const Evaluation result = evaluate(model.parts(source, *communicator), {.samples = 2});
  ASSERT_EQ(result.predictive.defined().size(), 1U);
  EXPECT_GT(*result.predictive.nll, 0.0);
}

TEST(SurfaceOfTwoInputs, IsTheModelOverTheWidenedRange) {
  const MemorySource source(made_up_data({2}, 2, 40));
  const auto communicator = self();
  Model model("linear", "bernoulli", source.spec());
  const int draws = 5;
  const Evaluation result =
      evaluate(model.parts(source, *communicator), {.samples = draws, .seed = 2, .surface = true});
  ASSERT_TRUE(result.surface);
  EXPECT_FALSE(evaluate(model.parts(source, *communicator), {.samples = 1}).surface) << "only where asked for";
  const Surface& surface = *result.surface;
  const Batch batch = whole(source);
  float low = batch.inputs[0], high = batch.inputs[0];
  for (std::size_t i = 0; i < batch.inputs.size(); i += 2) {
    low = std::min(low, batch.inputs[i]);
    high = std::max(high, batch.inputs[i]);
  }
  ASSERT_EQ(surface.x.size(), 100U);
  ASSERT_EQ(surface.probability.size(), 10000U);
  EXPECT_NEAR(surface.x.front(), low - 0.2 * (high - low), 1e-6);
  EXPECT_NEAR(surface.x.back(), high + 0.2 * (high - low), 1e-6);

  const std::size_t row = 83, column = 14;
  double mean = 0.0, square = 0.0;
  for (std::uint32_t draw = 0; draw < draws; ++draw) {
    model.posterior.draw({.seed = 2, .purpose = kernels::Purpose::prediction, .sample = draw});
    // linear: weight [1, 2] in slot 0, bias in slot 1
    const auto& slots = model.network.layout().slots;
    const auto weight = [&](std::int64_t i) { return model.posterior.weights()[i].item<double>(); };
    const double p = 1.0 / (1.0 + std::exp(-weight(slots[0].offset) * surface.x[column] -
                                           weight(slots[0].offset + 1) * surface.y[row] - weight(slots[1].offset)));
    mean += p / draws;
    square += p * p / draws;
  }
  const std::size_t at = row * 100 + column;
  EXPECT_NEAR(surface.probability[at], mean, 1e-6);  // logits in float32
  EXPECT_NEAR(surface.probability_stddev[at], std::sqrt(square - mean * mean), 1e-5);
  for (std::size_t i = 0; i < surface.probability.size(); ++i) {
    EXPECT_LE(surface.probability_stddev[i], surface.label_stddev[i] + 1e-12);
  }
}

}  // namespace
}  // namespace credence
