// KL, cross entropy and entropy against numerical integration (tests/references/priors) and Monte Carlo; rules.
#include "credence/priors/prior.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"

namespace credence {
namespace {

using kernels::Segment;
using kernels::SegmentSums;

/// The sums of one segment at element 0, as the kernels form them.
template <class T>
SegmentSums sums_of(const Segment& segment, const std::vector<double>& means, const std::vector<double>& scales) {
  std::vector<T> mean(means.begin(), means.end());
  std::vector<T> raw;
  for (const double scale : scales) raw.push_back(static_cast<T>(kernels::inverse_softplus(scale)));
  kernels::UpdateArrays<T> arrays;
  arrays.mean = mean.data();
  arrays.raw_scale = raw.data();
  return kernels::reference_kernels<T>(1)->measure({&segment, 1}, {}, arrays).front();
}

Segment segment_of(std::size_t count, double prior_mean, double prior_scale, bool gaussian = true) {
  return {.offset = 0,
          .count = static_cast<std::int64_t>(count),
          .gaussian = gaussian,
          .prior_mean = prior_mean,
          .prior_scale = prior_scale};
}

nlohmann::json reference() {
  std::ifstream file(CREDENCE_REFERENCES "/priors/normal.json");
  return nlohmann::json::parse(file)["tensors"];
}

template <class T>
void expect_reference_values(double tolerance) {
  for (const auto& tensor : reference()) {
    const std::vector<double> means = tensor["means"];
    const std::vector<double> scales = tensor["scales"];
    const Segment segment = segment_of(means.size(), tensor["prior_mean"], tensor["prior_scale"]);
    const SegmentSums sums = sums_of<T>(segment, means, scales);
    const auto near = [&](double value, double expected) {
      EXPECT_NEAR(value, expected, tolerance * (std::abs(expected) + static_cast<double>(means.size())));
    };
    near(kl_nats(segment, sums), tensor["kl"]);
    near(cross_entropy_nats(segment, sums), tensor["cross_entropy"]);
    near(entropy_nats(segment, sums), tensor["entropy"]);

    const Segment point = segment_of(means.size(), tensor["prior_mean"], tensor["prior_scale"], false);
    const SegmentSums point_sums = sums_of<T>(point, means, scales);
    near(cross_entropy_nats(point, point_sums), tensor["point_cross_entropy"]);
    EXPECT_EQ(entropy_nats(point, point_sums), 0.0);
  }
}

// The integrals are good to 1e-12; single precision rounds scale, logarithm and squares a few times to 2^-24.
TEST(Normal, AgreesWithNumericalIntegration) {
  expect_reference_values<double>(1e-11);
}
TEST(Normal, AgreesWithNumericalIntegrationInSinglePrecision) {
  expect_reference_values<float>(16 * 0x1p-24);
}

TEST(Normal, KlOfThePriorItselfIsZero) {
  for (const double scale : {1e-3, 0.1, 1.0, 30.0}) {
    const std::vector<double> means(100, 0.25), scales(100, scale);
    const Segment segment = segment_of(100, 0.25, scale);
    // Terms of order one: a few roundings each.
    EXPECT_NEAR(kl_nats(segment, sums_of<double>(segment, means, scales)), 0.0, 100 * 1e-14) << scale;
    EXPECT_NEAR(kl_nats(segment, sums_of<float>(segment, means, scales)), 0.0, 100 * 16 * 0x1p-24) << scale;
  }
}

TEST(Normal, KlIsNeverNegative) {
  kernels::NoiseStream noise{.seed = 4, .purpose = kernels::Purpose::prediction};
  std::int64_t next = 0;
  for (int trial = 0; trial < 500; ++trial) {
    // From close to the prior to far from it.
    const double spread = std::pow(10.0, -trial % 6);
    const double prior_scale = std::exp(2.0 * static_cast<double>(kernels::standard_normal(noise, next++)));
    std::vector<double> means, scales;
    for (int i = 0; i < 7; ++i) {
      means.push_back(prior_scale * spread * static_cast<double>(kernels::standard_normal(noise, next++)));
      scales.push_back(prior_scale * std::exp(spread * static_cast<double>(kernels::standard_normal(noise, next++))));
    }
    const Segment segment = segment_of(means.size(), 0.0, prior_scale);
    const double kl = kl_nats(segment, sums_of<double>(segment, means, scales));
    EXPECT_GE(kl, -1e-13);
    if (spread == 1.0) {
      EXPECT_GT(kl, 1e-3);
    }
  }
}

TEST(Normal, KlAgreesWithMonteCarlo) {
  const std::vector<double> means = {0.3, -1.2, 0.05}, scales = {0.5, 0.02, 1.7};
  const double prior_scale = 0.8;
  const Segment segment = segment_of(3, 0.0, prior_scale);
  const auto log_normal = [](double x, double m, double s) {
    return -0.5 * (x - m) * (x - m) / (s * s) - std::log(s) - 0.5 * std::log(2.0 * std::numbers::pi);
  };
  const int draws = 40000;
  double sum = 0.0, squares = 0.0;
  for (int draw = 0; draw < draws; ++draw) {
    const kernels::NoiseStream noise{.seed = 11, .step = static_cast<std::uint32_t>(draw)};
    double ratio = 0.0;
    for (std::size_t i = 0; i < 3; ++i) {
      const double w =
          means[i] + scales[i] * static_cast<double>(kernels::standard_normal(noise, static_cast<std::int64_t>(i)));
      ratio += log_normal(w, means[i], scales[i]) - log_normal(w, 0.0, prior_scale);
    }
    sum += ratio;
    squares += ratio * ratio;
  }
  const double mean = sum / draws;
  const double error = std::sqrt((squares / draws - mean * mean) / draws);
  EXPECT_LT(error, 0.02);
  EXPECT_NEAR(kl_nats(segment, sums_of<double>(segment, means, scales)), mean, 4.0 * error);
}

TEST(Normal, WithoutAPriorNothingIsAdded) {
  const Segment segment = segment_of(3, 0.0, std::numeric_limits<double>::infinity(), false);
  EXPECT_EQ(cross_entropy_nats(segment, sums_of<double>(segment, {1, 2, 3}, {1, 1, 1})), 0.0);
}

Slot slot(const std::string& name, std::int64_t fan_in, bool bias = false, bool norm = false) {
  Slot result;
  result.name = name;
  result.fan_in = fan_in;
  result.is_bias = bias;
  result.is_norm = norm;
  return result;
}

TEST(PriorSpecs, GiveTheirScale) {
  const Slot weight = slot("fc1.weight", 25);
  const Slot bias = slot("fc1.bias", 25, true);
  EXPECT_EQ(prior_scale(parse_prior("normal"), weight), 1.0);
  EXPECT_EQ(prior_scale(parse_prior("normal:0.2"), weight), 0.2);
  EXPECT_EQ(prior_scale(parse_prior("normal:0.2"), bias), 0.2);
  EXPECT_DOUBLE_EQ(prior_scale(parse_prior("normal:fan-in"), weight), 0.2);
  EXPECT_EQ(prior_scale(parse_prior("normal:fan-in"), bias), 1.0);
  EXPECT_EQ(prior_scale(parse_prior("normal:fan-in"), slot("bn.weight", 25, false, true)), 1.0);
  EXPECT_TRUE(std::isinf(prior_scale(parse_prior("none"), weight)));
  for (const char* spec : {"normal:0.2", "normal:fan-in", "none"}) EXPECT_EQ(describe(parse_prior(spec)), spec);
  for (const char* spec : {"normal:0", "normal:-1", "normal:nan", "normal:inf", "normal:x", "none:1", "", "norm"}) {
    EXPECT_THROW(parse_prior(spec), UserError) << spec;
  }
}

TEST(PriorSpecs, AreDescribedAsTheyAreParsed) {
  for (const char* spec : {"normal:0.2", "normal:fan-in", "none", "laplace:0.7", "logistic:0.25", "student-t:2.5,0.1",
                           "scale-mixture:0.25,1,0.002", "spike-slab:0.1,0.5", "horseshoe:0.1", "horseshoe:0.1,unit",
                           "log-uniform", "hierarchical:3", "empirical", "checkpoint:runs/a,b=1.h5,inflate=2.5",
                           "weights:a.safetensors,scale=0.01", "weights:a.pt,scale=1,delta=0.1"}) {
    EXPECT_EQ(describe(parse_prior(spec)), spec);
  }
  const std::map<std::string, std::string> defaults = {{"normal", "normal:1"},
                                                       {"laplace", "laplace:1"},
                                                       {"logistic", "logistic:1"},
                                                       {"student-t", "student-t:4,1"},
                                                       {"student-t:3", "student-t:3,1"},
                                                       {"scale-mixture", "scale-mixture:0.5,1,0.002"},
                                                       {"spike-slab", "spike-slab:0.5,1"},
                                                       {"spike-slab:0.2", "spike-slab:0.2,1"},
                                                       {"horseshoe", "horseshoe:1"},
                                                       {"horseshoe:unit", "horseshoe:1,unit"},
                                                       {"hierarchical", "hierarchical:1"},
                                                       {"checkpoint:a.h5", "checkpoint:a.h5,inflate=1"},
                                                       {"weights:a.safetensors", "weights:a.safetensors,scale=0.1"}};
  for (const auto& [spec, full] : defaults) EXPECT_EQ(describe(parse_prior(spec)), full);
  EXPECT_EQ(describe(InformedPrior{nullptr, 2.0, "checkpoint:a.h5,inflate=2"}), "checkpoint:a.h5,inflate=2");
}

TEST(PriorSpecs, RefuseWhatMakesNoSense) {
  for (const char* spec : {"laplace:0",
                           "laplace:1,2",
                           "laplace:,",
                           "logistic:-1",
                           "student-t:0",
                           "student-t:3,1,1",
                           "student-t:3,x",
                           "scale-mixture:1",
                           "scale-mixture:0",
                           "scale-mixture:0.5,1,0",
                           "spike-slab:1",
                           "spike-slab:0.5,-1",
                           "horseshoe:0",
                           "horseshoe:1,units",
                           "horseshoe:unit,1",
                           "log-uniform:1",
                           "hierarchical:0",
                           "empirical:1",
                           "checkpoint",
                           "checkpoint:,inflate=2",
                           "checkpoint:a.h5,inflate=",
                           "checkpoint:a.h5,inflate=0",
                           "checkpoint:a.h5,inflate=x",
                           "weights:",
                           "weights:a,scale=-1",
                           "weights:a,delta=0",
                           "weights:a,scale=1,delta=x",
                           "horse-shoe"}) {
    EXPECT_THROW(parse_prior(spec), UserError) << spec;
  }
  const auto message = [](const char* spec) {
    try {
      parse_prior(spec);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message("student-t:3,0"), testing::HasSubstr("student-t:DOF,S must be positive, not 0"));
  EXPECT_THAT(message("scale-mixture:1.5,1,1"), testing::HasSubstr("below 1, not 1.5"));
  EXPECT_THAT(message("checkpoint"), testing::HasSubstr("needs a file"));
  EXPECT_THAT(message("horse-shoe"), testing::HasSubstr("did you mean 'horseshoe'"));
}

TEST(PriorSpecs, LeaveTheKernelsNothingWhereTheyAreNotNormal) {
  for (const char* spec : {"laplace", "horseshoe", "hierarchical", "spike-slab", "checkpoint:a.h5"}) {
    EXPECT_TRUE(std::isinf(prior_scale(parse_prior(spec), slot("fc1.weight", 25)))) << spec;
  }
}

TEST(SplitRule, KnowsTheValueByItsName) {
  const std::vector<std::string> known = {"normal", "none", "checkpoint", "weights", "low-rank"};
  const auto expect = [&](const std::string& text, const std::string& expression, const std::string& value) {
    EXPECT_EQ(split_rule(text, known), std::make_pair(expression, value)) << text;
  };
  expect("normal:1", "", "normal:1");
  expect("fc=normal:1", "fc", "normal:1");
  expect("fc=none", "fc", "none");
  expect("checkpoint:a.h5,inflate=2", "", "checkpoint:a.h5,inflate=2");
  expect("checkpoint:dir=none/a.h5", "", "checkpoint:dir=none/a.h5");
  expect("fc=checkpoint:a=b.h5,inflate=2", "fc", "checkpoint:a=b.h5,inflate=2");
  expect("^(?!head)=weights:x=normal:1,scale=0.1", "^(?!head)", "weights:x=normal:1,scale=0.1");
  expect("(?=conv).*bias=none", "(?=conv).*bias", "none");
  expect("(?=conv).*=checkpoint:a,inflate=2", "(?=conv).*", "checkpoint:a,inflate=2");
  expect("(?:fc|conv)=low-rank:3", "(?:fc|conv)", "low-rank:3");
  // Nothing known: what the message should be about.
  expect("fc=norm", "fc", "norm");
  expect("(?=conv).*=norm:1", "(?=conv).*", "norm:1");
  expect("checkpont:a.h5,inflate=2", "", "checkpont:a.h5,inflate=2");
  expect("fc=", "fc", "");
  EXPECT_THROW(split_rule("=normal:1", known), UserError);
}

TEST(PriorRules, TakeValuesWithEqualsSigns) {
  const auto rules = parse_priors({"checkpoint:a.h5,inflate=2", "^head=weights:b.safetensors,scale=0.5"});
  EXPECT_EQ(describe(rules.fallback), "checkpoint:a.h5,inflate=2");
  ASSERT_NE(rules.exception_for("head.weight"), nullptr);
  EXPECT_EQ(describe(*rules.exception_for("head.weight")), "weights:b.safetensors,scale=0.5");
  EXPECT_EQ(rules.exception_for("fc1.weight"), nullptr);
}

TEST(PriorRules, LastMatchWins) {
  const auto rules = parse_priors({"normal:2", "fc=normal:0.5", "weight$=normal:0.25", "(?=conv).*bias=none"});
  const auto scale = [&](const std::string& name) {
    const Prior* rule = rules.exception_for(name);
    return prior_scale(rule != nullptr ? *rule : rules.fallback, slot(name, 4));
  };
  EXPECT_EQ(scale("gain"), 2.0);
  EXPECT_EQ(scale("fc1.bias"), 0.5);
  EXPECT_EQ(scale("fc1.weight"), 0.25);
  EXPECT_EQ(scale("conv1.weight"), 0.25);
  EXPECT_TRUE(std::isinf(scale("conv1.bias")));
  for (const char* spec : {"fc[=normal:1", "=normal:1", "fc=norm", "fc="}) {
    EXPECT_THROW(parse_priors({spec}), UserError) << spec;
  }
}

}  // namespace
}  // namespace credence
