// What predictives of numbers are made of, against values of SciPy (tests/references/likelihoods/regression.py).
#include "credence/likelihoods/observation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"
#include "credence/likelihoods/distribution_functions.h"

namespace credence {
namespace {

const nlohmann::json& reference(const std::string& name) {
  static const nlohmann::json all = [] {
    std::ifstream file(CREDENCE_REFERENCES "/likelihoods/regression.json");
    return nlohmann::json::parse(file);
  }();
  return all.at(name);
}

Likelihood likelihood_of(const std::string& spec) {
  ExampleSpec examples;
  examples.input_shape = {1};
  examples.target_size = 1;
  return parse_likelihood(spec, examples);
}

TEST(DistributionFunctions, AgreeWithScipy) {
  for (const auto& row : reference("distribution_functions")["student_t"]) {
    // The difference of logarithms of Gamma(5000) loses four of sixteen digits.
    EXPECT_NEAR(student_t_cdf(row[0], row[1]) / row[2].get<double>(), 1.0, 1e-11) << row;
  }
  for (const auto& row : reference("distribution_functions")["poisson"]) {
    // exp(a log x - x - log Gamma(a)) with terms of 4e6: ten digits are left.
    EXPECT_NEAR(poisson_cdf(row[0], row[1]) / row[2].get<double>(), 1.0, 1e-8) << row;
  }
  for (const auto& row : reference("distribution_functions")["poisson_large"]) {
    EXPECT_NEAR(poisson_cdf(row[0], row[1]), row[2].get<double>(), 1e-8) << row;
  }
  EXPECT_EQ(poisson_cdf(-1.0, 3.0), 0.0);
  EXPECT_EQ(poisson_cdf(5.0, 0.0), 1.0);
  EXPECT_TRUE(std::isnan(poisson_cdf(5.0, INFINITY)));
  EXPECT_TRUE(std::isnan(student_t_cdf(NAN, 3.0)));
  EXPECT_EQ(student_t_cdf(INFINITY, 3.0), 1.0);
  EXPECT_EQ(normal_cdf(0.0), 0.5);
  EXPECT_NEAR(normal_cdf(1.959963984540054), 0.975, 1e-15);
}

TEST(ObservationModel, QuantilesOfMixturesAgreeWithScipy) {
  for (const auto& [spec, mixture] : reference("mixtures").items()) {
    const ObservationModel model(likelihood_of(spec));
    const auto& outputs = mixture["outputs"];
    for (std::size_t target = 0; target < mixture["rows"].size(); ++target) {
      std::vector<Observation> parts;
      for (const auto& draw : outputs) {
        const auto values = draw[target].get<std::vector<double>>();
        const auto tensors =
            model.of(torch::tensor(values, torch::kFloat64).view({1, static_cast<std::int64_t>(values.size())}));
        parts.push_back({tensors.location.item<double>(), tensors.scale.item<double>()});
      }
      const auto& expected = mixture["rows"][target];
      // To 1e-10 of the largest scale, which is below 20.
      EXPECT_NEAR(model.quantile(model.level(0.05), parts), expected["lower"].get<double>(), 2e-9) << spec << target;
      EXPECT_NEAR(model.quantile(model.level(0.95), parts), expected["upper"].get<double>(), 2e-9) << spec << target;
    }
  }
}

TEST(ObservationModel, QuantilesOfExtremesEnd) {
  const ObservationModel counts(likelihood_of("poisson"));
  const Observation nothing{0.0, 0.0};
  EXPECT_EQ(counts.quantile(counts.level(0.95), {&nothing, 1}), 0.0);
  const Observation many{1e12, 1e6};
  EXPECT_NEAR(counts.quantile(counts.level(0.95), {&many, 1}), 1e12 + 1.6448536 * 1e6, 10.0);
  const ObservationModel normal(likelihood_of("gaussian:1"));
  const std::vector<Observation> far = {{-1e200, 1.0}, {1e200, 1e-3}};
  EXPECT_LT(normal.quantile(normal.level(0.05), far), -9e199);
  const Observation infinite{INFINITY, 1.0};
  EXPECT_TRUE(std::isnan(normal.quantile(normal.level(0.5), {&infinite, 1})));
  EXPECT_TRUE(std::isnan(counts.quantile(counts.level(0.5), {&infinite, 1})));
  const ObservationModel cauchy(likelihood_of("student-t:1"));
  const Observation standard{0.0, 1.0};
  EXPECT_NEAR(cauchy.quantile(cauchy.level(0.95), {&standard, 1}), 6.313751514675041, 1e-9);
  EXPECT_TRUE(std::isinf(cauchy.variance(standard)));
  EXPECT_THROW(ObservationModel(CategoricalLikelihood{3}), InternalError);
}

/// Largest distance between the samples' distribution function and the model's exceeds c / sqrt(n) with probability at
/// most 2 exp(-2 c^2) (Massart 1990): 1e-6 for c = 2.69. Float32 normals are within 1e-6 of normal ones.
TEST(ObservationModel, SamplesFollowTheirDistribution) {
  const std::int64_t n = 100000;
  for (const auto& [spec, at] : std::vector<std::pair<const char*, Observation>>{{"gaussian:2", {0.7, 2.0}},
                                                                                 {"student-t:1.5", {-3.0, 0.4}},
                                                                                 {"student-t:30", {5.0, 4.0}},
                                                                                 {"poisson", {0.2, 0.0}},
                                                                                 {"poisson", {37.5, 0.0}},
                                                                                 {"poisson", {4e4, 0.0}}}) {
    const ObservationModel model(likelihood_of(spec));
    const kernels::NoiseStream stream{.seed = 3, .purpose = kernels::Purpose::prediction, .step = 2, .sample = 1};
    std::vector<double> samples;
    for (std::int64_t i = 0; i < n; ++i) samples.push_back(model.sample(at, stream, i));
    EXPECT_EQ(samples[17], model.sample(at, stream, 17));
    std::sort(samples.begin(), samples.end());
    double distance = 0.0;
    for (std::size_t i = 0; i < samples.size();) {
      std::size_t end = i;
      while (end < samples.size() && samples[end] == samples[i]) ++end;
      distance = std::max(distance, std::abs(static_cast<double>(end) / n - model.cdf(samples[i], at)));
      i = end;
    }
    EXPECT_LT(distance, 2.69 / std::sqrt(n)) << spec;
  }
}

TEST(Uniform, UsesBothWords) {
  const kernels::NoiseStream stream{.seed = 1, .purpose = kernels::Purpose::prediction, .step = 2};
  kernels::NoiseStream second = stream;
  second.shard = 1;
  const double word = 0x1p32 * uniform(stream, 70);
  EXPECT_EQ(std::floor(word), kernels::random_word(stream, 70));
  EXPECT_NEAR(word - std::floor(word), kernels::random_word(second, 70) * 0x1p-32, 0x1p-19);
}

}  // namespace
}  // namespace credence
