// What every draw of a posterior must satisfy, and which tensors are Gaussian.
#include "credence/posteriors/posterior.h"

#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"
#include "credence/posteriors/complexity.h"

namespace credence {
namespace {

using kernels::NoiseStream;
using kernels::Segment;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// A convolution, its normalisation and a linear layer, as a network would lay them out.
Layout layout() {
  Layout result;
  const auto add = [&](const char* name, std::int64_t count, std::int64_t fan_in, bool bias, bool norm) {
    Slot slot;
    slot.name = name;
    slot.shape = {count};
    slot.offset = result.elements;
    slot.count = count;
    slot.fan_in = fan_in;
    slot.is_bias = bias;
    slot.is_norm = norm;
    result.slots.push_back(slot);
    result.elements += (count + 63) / 64 * 64;
  };
  add("conv1.weight", 100, 25, false, false);
  add("bn1.weight", 4, 1, false, true);
  add("bn1.bias", 4, 1, true, true);
  add("fc.weight", 70000, 16, false, false);
  add("fc.bias", 10, 16, true, false);
  return result;
}

PosteriorPlan plan(const std::vector<std::string>& families, const std::vector<std::string>& priors) {
  return plan_posterior(layout(), parse_families(families), parse_priors(priors));
}

TEST(Plan, NormsArePointEstimatesOutsideTheKl) {
  const auto segments = plan({"mean-field"}, {"normal:0.5"}).segments;
  ASSERT_EQ(segments.size(), 5U);
  for (const std::size_t i : {0U, 3U, 4U}) {
    EXPECT_TRUE(segments[i].gaussian) << i;
    EXPECT_EQ(segments[i].prior_scale, 0.5) << i;
  }
  for (const std::size_t i : {1U, 2U}) {
    EXPECT_FALSE(segments[i].gaussian) << i;
    EXPECT_TRUE(std::isinf(segments[i].prior_scale)) << i;
  }
  EXPECT_EQ(segments[3].offset, layout().slots[3].offset);
  EXPECT_EQ(segments[3].count, 70000);
}

TEST(Plan, LikelihoodParametersArePointEstimatesUnlessARuleNamesThem) {
  Layout with_noise;
  Slot slot;
  slot.name = "likelihood.raw_scale";
  slot.shape = {2};
  slot.count = 2;
  slot.is_likelihood = true;
  with_noise.slots = {slot};
  with_noise.elements = 64;
  const auto plain = plan_posterior(with_noise, parse_families({}), parse_priors({"normal:0.5"})).segments;
  EXPECT_FALSE(plain[0].gaussian);
  EXPECT_TRUE(std::isinf(plain[0].prior_scale));
  const auto named =
      plan_posterior(with_noise, parse_families({"likelihood=mean-field"}), parse_priors({"normal:0.5"})).segments;
  EXPECT_TRUE(named[0].gaussian);
  EXPECT_EQ(named[0].prior_scale, 0.5);
}

TEST(Plan, RulesOverrideByName) {
  const auto segments =
      plan({"^fc=point", "bn1.weight=mean-field"}, {"normal:fan-in", "fc.bias=normal:3", "bn1.bias=normal:7"}).segments;
  EXPECT_TRUE(segments[0].gaussian);
  EXPECT_DOUBLE_EQ(segments[0].prior_scale, 0.2);
  EXPECT_TRUE(segments[1].gaussian);
  EXPECT_EQ(segments[1].prior_scale, 1.0);
  EXPECT_FALSE(segments[2].gaussian);
  EXPECT_EQ(segments[2].prior_scale, 7.0);
  EXPECT_FALSE(segments[3].gaussian);
  EXPECT_DOUBLE_EQ(segments[3].prior_scale, 0.25);
  EXPECT_EQ(segments[4].prior_scale, 3.0);
}

TEST(Plan, MeanFieldWithoutAPriorIsRefused) {
  EXPECT_THAT([] { plan({"mean-field"}, {"none"}); },
              ThrowsMessage<UserError>(AllOf(HasSubstr("conv1.weight"), HasSubstr("prior"))));
  EXPECT_THAT([] { plan({"mean-field"}, {"fc.bias=none"}); }, ThrowsMessage<UserError>(HasSubstr("fc.bias")));
  EXPECT_NO_THROW(plan({"point"}, {"none"}));
  EXPECT_NO_THROW(plan({"fc.bias=point"}, {"fc.bias=none"}));
  EXPECT_THROW(plan({"fc=meanfield"}, {}), UserError);
  EXPECT_THROW(plan({"gaussian"}, {}), UserError);
  EXPECT_THROW(plan({"fc(=point"}, {}), UserError);
}

constexpr double kScale = 0.5;

struct Fixture {
  explicit Fixture(torch::Dtype dtype = torch::kFloat32, const std::vector<std::string>& families = {"mean-field"},
                   int threads = 1)
      : mean(torch::sin(torch::arange(layout().elements, torch::kFloat64)).to(dtype)),
        posterior(plan(families, {"normal:1"}), mean.clone(), kScale, threads) {}

  torch::Tensor draw(const NoiseStream& noise) {
    posterior.draw(noise);
    return posterior.weights().clone();
  }
  torch::Tensor part(const torch::Tensor& arena, std::size_t segment) const {
    const Segment& s = posterior.segments()[segment];
    return arena.narrow(0, s.offset, s.count).to(torch::kFloat64);
  }
  torch::Tensor eps(const torch::Tensor& weights, std::size_t segment) const {
    return (part(weights, segment) - part(mean, segment)) / kScale;
  }

  torch::Tensor mean;
  Posterior posterior;
};

TEST(Draws, AreMeanPlusScaleTimesTheStreamsNoise) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    Fixture f(dtype);
    const NoiseStream noise{.seed = 3, .step = 17, .shard = 2, .sample = 1};
    const torch::Tensor weights = f.draw(noise);
    // The scale's softplus is good to a few units in the last place, the sum is rounded once.
    const double tolerance = (dtype == torch::kFloat32 ? 0x1p-24 : 0x1p-53) * 8.0 * (1.0 + 6.7 * kScale);
    for (const std::size_t index : {0U, 3U, 4U}) {
      const Segment& segment = f.posterior.segments()[index];
      const torch::Tensor w = f.part(weights, index), m = f.part(f.mean, index);
      for (std::int64_t i = 0; i < std::min<std::int64_t>(segment.count, 200); ++i) {
        const double e = static_cast<double>(kernels::standard_normal(noise, segment.offset + i));
        EXPECT_NEAR(w[i].item<double>(), m[i].item<double>() + kScale * e, tolerance) << index << " " << i;
      }
    }
    for (const std::size_t index : {1U, 2U}) EXPECT_TRUE(torch::equal(f.part(weights, index), f.part(f.mean, index)));
  }
}

TEST(Draws, HaveTheMeanAndTheVariance) {
  Fixture f;
  const double n = 70000.0;
  torch::Tensor last;
  for (const std::uint32_t step : {0U, 1U, 2U}) {
    const torch::Tensor e = f.eps(f.draw({.seed = 1, .step = step}), 3);
    EXPECT_NEAR(e.mean().item<double>(), 0.0, 5.0 / std::sqrt(n));
    EXPECT_NEAR(e.square().mean().item<double>(), 1.0, 5.0 * std::sqrt(2.0 / n));
    if (last.defined()) {
      EXPECT_NEAR((e * last).mean().item<double>(), 0.0, 5.0 / std::sqrt(n));
    }
    last = e;
  }
}

TEST(Draws, AreFunctionsOfTheStreamAlone) {
  Fixture f;
  const NoiseStream a{.seed = 1, .step = 4, .shard = 1};
  const torch::Tensor first = f.draw(a);
  for (const NoiseStream& other :
       {NoiseStream{.seed = 2, .step = 4, .shard = 1}, NoiseStream{.seed = 1, .step = 5, .shard = 1},
        NoiseStream{.seed = 1, .step = 4, .shard = 2}, NoiseStream{.seed = 1, .step = 4, .shard = 1, .sample = 1},
        NoiseStream{.seed = 1, .purpose = kernels::Purpose::prediction, .step = 4, .shard = 1},
        NoiseStream{.seed = 1, .step = 4, .shard = 1, .negate = true}}) {
    const torch::Tensor between = f.draw(other);
    EXPECT_LT(f.eps(between, 3).eq(f.eps(first, 3)).to(torch::kFloat64).mean().item<double>(), 0.01);
    EXPECT_TRUE(torch::equal(f.draw(a), first));
  }
  Fixture again(torch::kFloat32, {"mean-field"}, 2);
  EXPECT_TRUE(torch::equal(again.draw(a), first));
}

TEST(Draws, OfPartnersMirrorEachOther) {
  Fixture f;
  const torch::Tensor plus = f.draw({.seed = 1, .step = 4});
  const torch::Tensor minus = f.draw({.seed = 1, .step = 4, .negate = true});
  const torch::Tensor gap = f.part(plus, 3) + f.part(minus, 3) - 2.0 * f.part(f.mean, 3);
  EXPECT_LT(gap.abs().max().item<double>(), 2.0 * 0x1p-24 * 8.0);  // each draw is rounded once, below 8
}

TEST(Draws, SeeNewMeansOnceTold) {
  Fixture f;
  const NoiseStream a{.seed = 1};
  const torch::Tensor first = f.draw(a);
  torch::Tensor mean = f.posterior.mean();
  mean.add_(1.0);
  f.posterior.set_drawn(std::nullopt);
  EXPECT_GT((f.draw(a) - first).abs().max().item<double>(), 0.5);
}

TEST(Posterior, ScalesAreStandardDeviations) {
  Fixture f(torch::kFloat64);
  const torch::Tensor scales = f.posterior.scales();
  for (const std::size_t i : {0U, 3U, 4U}) {
    EXPECT_LT((f.part(scales, i) - kScale).abs().max().item<double>(), 1e-15) << i;
  }
  for (const std::size_t i : {1U, 2U}) EXPECT_EQ(f.part(scales, i).abs().sum().item<double>(), 0.0);
  EXPECT_THROW(Posterior(plan({"mean-field"}, {}), f.mean, 0.0, 1), UserError);
  EXPECT_THROW(Posterior(plan({"mean-field"}, {}), f.mean, -1.0, 1), UserError);
}

TEST(Posterior, PointHasNoScalesAndDrawsItsMean) {
  Fixture f(torch::kFloat32, {"point"});
  EXPECT_FALSE(f.posterior.has_gaussian());
  EXPECT_FALSE(f.posterior.raw_scale().defined());
  f.posterior.draw({.seed = 1});
  EXPECT_TRUE(torch::equal(f.posterior.weights(), f.mean));
  EXPECT_EQ(f.posterior.weights().data_ptr(), f.posterior.mean().data_ptr());
}

TEST(Posterior, MeasuresInClosedForm) {
  Fixture f(torch::kFloat64);
  const auto sums = f.posterior.measure();
  ASSERT_EQ(sums.size(), 5U);
  const torch::Tensor m = f.part(f.mean, 3);
  EXPECT_NEAR(sums[3].log_scale, 70000.0 * std::log(kScale), 70000.0 * 1e-14);
  EXPECT_NEAR(sums[3].squared_deviation, m.square().sum().item<double>() + 70000.0 * kScale * kScale, 70000.0 * 1e-14);
  EXPECT_EQ(sums[1].log_scale, 0.0);
}

/// A network with an encoder, deviations of groups and a latent variable of three values.
Layout latent_layout() {
  Layout result;
  const auto add = [&](const char* name) -> Slot& {
    Slot slot;
    slot.name = name;
    slot.shape = {3};
    slot.count = 3;
    slot.offset = result.elements;
    result.elements += 64;
    result.slots.push_back(slot);
    return result.slots.back();
  };
  add("fc.weight");
  add("encoder.weight").is_amortized = true;
  add("fc.deviation.weight").is_deviation = true;
  add("depth_logits").categorical_log_prior = {std::log(0.5), std::log(0.3), std::log(0.2)};
  return result;
}

TEST(LatentVariables, HaveTheirOwnFamiliesAndPriors) {
  const PosteriorPlan planned =
      plan_posterior(latent_layout(), parse_families({"mean-field"}), parse_priors({"normal:1"}));
  EXPECT_EQ(planned.families[0].kind, Family::Kind::mean_field);
  EXPECT_EQ(planned.families[1].kind, Family::Kind::point);
  EXPECT_TRUE(std::holds_alternative<NoPrior>(planned.priors[1]));
  EXPECT_EQ(planned.families[2].kind, Family::Kind::mean_field);
  EXPECT_TRUE(std::holds_alternative<HierarchicalPrior>(planned.priors[2]));
  EXPECT_EQ(planned.families[3].kind, Family::Kind::categorical);
  EXPECT_TRUE(std::holds_alternative<HierarchicalPrior>(
      plan_posterior(latent_layout(), parse_families({"low-rank:2"}), parse_priors({"normal:1"})).priors[2]));
  EXPECT_THAT(describe_bound(plan_posterior(latent_layout(), parse_families({"point"}), parse_priors({"normal:1"}))),
              HasSubstr("+ KL(q(depth) || p(depth))"));
  // An earlier posterior of the deviations is their prior, as of other weights.
  const InformedTensor tensor{torch::ones({3}, torch::kFloat64), torch::ones({3}, torch::kFloat64), {}};
  const std::map<std::string, InformedTensor> tensors = {{"fc.weight", tensor}, {"fc.deviation.weight", tensor}};
  TensorRules<Prior> earlier = parse_priors({});
  earlier.fallback =
      InformedPrior{std::make_shared<const std::map<std::string, InformedTensor>>(tensors), 1.0, "earlier"};
  EXPECT_TRUE(std::holds_alternative<InformedPrior>(
      plan_posterior(latent_layout(), parse_families({"mean-field"}), earlier).priors[2]));
  const PosteriorPlan ruled = plan_posterior(latent_layout(), parse_families({"mean-field", "encoder=mean-field"}),
                                             parse_priors({"normal:1", "deviation=normal:0.1"}));
  EXPECT_EQ(ruled.families[1].kind, Family::Kind::mean_field);
  EXPECT_EQ(ruled.segments[2].prior_scale, 0.1);
  EXPECT_THAT([] { plan({"fc=categorical"}, {"normal:1"}); }, ThrowsMessage<UserError>(HasSubstr("holds none")));
  const auto ruled_out = [](const char* family, const char* prior) {
    plan_posterior(latent_layout(), parse_families({"point", family}), parse_priors({"none", prior}));
  };
  EXPECT_THAT([&] { ruled_out("depth.*=point", "fc=none"); }, ThrowsMessage<UserError>(HasSubstr("leave it out")));
  EXPECT_THAT([&] { ruled_out("fc=point", "depth.*=normal:1"); }, ThrowsMessage<UserError>(HasSubstr("leave it out")));
}

TEST(LatentVariables, CategoricalAddsItsKlAndTheGradientOfThat) {
  const std::vector<double> logits = {0.4, -0.3, 0.9};
  torch::Tensor values = torch::zeros({256}, torch::kFloat64);
  for (int i = 0; i < 3; ++i) values[192 + i] = logits[static_cast<std::size_t>(i)];
  Posterior posterior(plan_posterior(latent_layout(), parse_families({"point"}), parse_priors({"none"})), values, 0.1,
                      1);
  EXPECT_FALSE(posterior.is_random());
  double normalizer = 0.0;
  for (const double logit : logits) normalizer += std::exp(logit);
  const std::vector<double> p = {0.5, 0.3, 0.2};
  double kl = 0.0;
  std::vector<double> q, ratio;
  for (std::size_t i = 0; i < 3; ++i) {
    q.push_back(std::exp(logits[i]) / normalizer);
    ratio.push_back(std::log(q[i] / p[i]));
    kl += q[i] * ratio[i];
  }
  const auto terms = closed_form_terms(posterior);
  ASSERT_EQ(terms.size(), 1U);
  EXPECT_EQ(terms[0].slot, 3);
  EXPECT_NEAR(terms[0].cross_entropy - terms[0].entropy, kl, 1e-12);
  GradientSum gradient;
  for (const Slot& slot : posterior.layout().slots)
    gradient.slots.push_back(torch::zeros({slot.count}, torch::kFloat64));
  add_closed_form_terms(posterior, {1.0 / 50.0, 1.0 / 50.0}, 0.25, gradient);  // N = 50, four shards
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(gradient.slots[3][static_cast<std::int64_t>(i)].item<double>() * 0.25, q[i] * (ratio[i] - kl) / 50.0,
                1e-14);
  }
}

}  // namespace
}  // namespace credence
