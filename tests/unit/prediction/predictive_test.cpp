// Predictive mixtures against values of SciPy (tests/references/likelihoods/regression.py), and posterior predictive
// checks against closed forms.
#include "credence/prediction/predictive_checks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cases.h"
#include "credence/likelihoods/distribution_functions.h"
#include "credence/prediction/mixtures.h"

namespace credence {
namespace {

using test::Model;

constexpr double kSigmas = 5.0;  // 6e-7 of a normal quantity

TEST(Mixtures, AgreeWithScipy) {
  std::ifstream file(CREDENCE_REFERENCES "/likelihoods/regression.json");
  const auto reference = nlohmann::json::parse(file)["mixtures"];
  ExampleSpec examples;
  examples.input_shape = {1};
  examples.target_size = 1;
  ASSERT_EQ(reference.size(), 5U);
  for (const auto& [spec, mixture] : reference.items()) {
    const auto outputs = mixture["outputs"].get<std::vector<std::vector<std::vector<double>>>>();
    const auto targets = static_cast<std::int64_t>(outputs[0].size());
    Mixtures mixtures(parse_likelihood(spec, examples), targets);
    for (std::size_t draw = 0; draw < outputs.size(); ++draw) {
      for (std::size_t i = 0; i < outputs[draw].size(); i += 3) {  // two blocks of three
        std::vector<torch::Tensor> rows;
        for (std::size_t row = i; row < i + 3; ++row)
          rows.push_back(torch::tensor(outputs[draw][row], torch::kFloat64));
        mixtures.add(static_cast<std::int64_t>(i), static_cast<int>(draw), torch::stack(rows));
      }
    }
    for (std::int64_t target = 0; target < targets; ++target) {
      const Mixtures::Row row = mixtures.row(target, static_cast<int>(outputs.size()));
      const auto& expected = mixture["rows"][static_cast<std::size_t>(target)];
      const auto near = [&](double value, const char* name) {
        const double truth = expected[name];
        EXPECT_NEAR(value, truth, 2e-9 * std::max(1.0, std::abs(truth))) << spec << " " << target << " " << name;
      };
      near(row.mean, "mean");
      near(row.aleatoric_variance, "aleatoric_variance");
      near(row.epistemic_variance, "epistemic_variance");
      near(row.lower, "lower");
      near(row.upper, "upper");
    }
  }
}

/// N examples of the network "constant" with given outputs: every replicate is N independent draws of one distribution.
class Checks : public testing::Test {
 protected:
  static constexpr std::int64_t kExamples = 600;
  static constexpr int kReplicates = 1500;

  static MemoryData numbers(std::int64_t columns) {
    MemoryData data = test::made_up_data({1}, 0, kExamples, columns);
    for (std::size_t i = 0; i < data.targets.size(); ++i) data.targets[i] *= 1.9F + static_cast<float>(i % 2);
    return data;
  }

  std::vector<PredictiveCheck> run(const std::string& likelihood, const MemoryData& data,
                                   const std::vector<double>& outputs, const std::string& statistics) {
    const MemorySource source(data);
    Model model("constant", likelihood, source.spec(),
                {.posterior = posterior_, .initial_scale = scale_, .dtype = torch::kFloat64});
    torch::Tensor mean = model.posterior.mean();
    mean.narrow(0, 0, static_cast<std::int64_t>(outputs.size())).copy_(torch::tensor(outputs, torch::kFloat64));
    const auto communicator = make_self_communicator();
    return evaluate(model.parts(source, *communicator),
                    {.samples = kReplicates,
                     .seed = 4,
                     .block = 64,
                     .checks = parse_statistics(statistics, is_classification(model.likelihood))})
        .checks;
  }

  static void expect_near(double value, double expected, double deviation, const char* what) {
    EXPECT_NEAR(value, expected, kSigmas * deviation) << what;
  }
  static void expect_tail(const PredictiveCheck& check, double probability) {
    expect_near(check.tail_probability, probability, std::sqrt(probability * (1.0 - probability) / kReplicates),
                "tail");
  }

  std::string posterior_ = "point";
  double scale_ = 0.1;
};

TEST_F(Checks, NumbersFollowTheirClosedForms) {
  const double n = kExamples, mu = 0.05, sigma = 1.7;
  const MemoryData data = numbers(1);
  double mean = 0.0, squares = 0.0, largest = -1e30, least = 1e30;
  for (const double target : data.targets) {
    mean += target / n;
    squares += target * target / n;
    largest = std::max(largest, target);
    least = std::min(least, target);
  }
  const double variance = squares - mean * mean;
  const auto checks = run("gaussian:1.7", data, {mu}, "mean,variance,minimum,maximum");
  ASSERT_EQ(checks.size(), 4U);
  EXPECT_NEAR(checks[0].observed, mean, 1e-13);
  EXPECT_NEAR(checks[1].observed, variance, 1e-12);
  EXPECT_EQ(checks[2].observed, least);
  EXPECT_EQ(checks[3].observed, largest);
  EXPECT_FALSE(checks[0].column);

  const double of_mean = sigma / std::sqrt(n);
  expect_near(checks[0].replicated_mean, mu, of_mean / std::sqrt(kReplicates), "mean");
  expect_near(*checks[0].replicated_stddev, of_mean, of_mean / std::sqrt(2.0 * kReplicates), "deviation of the mean");
  expect_tail(checks[0], 1.0 - normal_cdf((mean - mu) / of_mean));
  const double of_variance = sigma * sigma * std::sqrt(2.0 / n);
  expect_near(checks[1].replicated_mean, sigma * sigma * (n - 1.0) / n, of_variance / std::sqrt(kReplicates),
              "variance");
  expect_near(*checks[1].replicated_stddev, of_variance, of_variance / std::sqrt(2.0 * kReplicates), "its deviation");
  expect_tail(checks[2], std::pow(1.0 - normal_cdf((least - mu) / sigma), n));
  expect_tail(checks[3], 1.0 - std::pow(normal_cdf((largest - mu) / sigma), n));
}

TEST_F(Checks, EveryReplicateHasItsOwnWeights) {
  posterior_ = "mean-field";
  scale_ = 0.3;
  const auto checks = run("gaussian:1.7", numbers(1), {0.2}, "mean");
  const double deviation = std::sqrt(0.3 * 0.3 + 1.7 * 1.7 / kExamples);
  expect_near(*checks[0].replicated_stddev, deviation, deviation / std::sqrt(2.0 * kReplicates), "deviation");
  expect_near(checks[0].replicated_mean, 0.2, deviation / std::sqrt(kReplicates), "mean");
}

TEST_F(Checks, ColumnsAreApart) {
  const auto checks = run("heteroscedastic", numbers(2), {-1.0, 3.0, std::log(4.0), std::log(0.25)}, "mean,variance");
  ASSERT_EQ(checks.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(checks[i].column, static_cast<std::int64_t>(i % 2));
  const double error = 1.0 / std::sqrt(kExamples * static_cast<double>(kReplicates));
  expect_near(checks[0].replicated_mean, -1.0, 2.0 * error, "mean of the first column");
  expect_near(checks[1].replicated_mean, 3.0, 0.5 * error, "mean of the second column");
  const double factor = (kExamples - 1.0) / kExamples;
  expect_near(checks[2].replicated_mean, 4.0 * factor, 4.0 * std::sqrt(2.0) * error, "variance of the first column");
  expect_near(checks[3].replicated_mean, 0.25 * factor, 0.25 * std::sqrt(2.0) * error, "variance of the second column");
}

TEST_F(Checks, BernoulliColumnsAreCoins) {
  MemoryData data = numbers(2);
  for (float& target : data.targets) target = target > 0.5F ? 1.0F : 0.0F;
  const auto checks = run("bernoulli", data, {std::log(0.3 / 0.7), std::log(4.0)}, "mean,minimum");
  const double error = 1.0 / std::sqrt(kExamples * static_cast<double>(kReplicates));
  expect_near(checks[0].replicated_mean, 0.3, std::sqrt(0.21) * error, "first coin");
  expect_near(checks[1].replicated_mean, 0.8, 0.4 * error, "second coin");
  EXPECT_EQ(checks[2].observed, 0.0);
  EXPECT_EQ(checks[2].tail_probability, 1.0);  // no replicate of 600 tosses without a tail
}

TEST_F(Checks, LabelsFollowTheirProbabilities) {
  const MemoryData data = test::made_up_data({1}, 3, kExamples);
  const std::vector<double> p = {0.2, 0.5, 0.3};
  const auto checks =
      run("categorical", data, {std::log(p[0]), std::log(p[1]), std::log(p[2])}, "accuracy,class-entropy");
  ASSERT_EQ(checks.size(), 2U);
  std::vector<double> counts(3);
  for (const std::int64_t label : data.labels) counts[static_cast<std::size_t>(label)] += 1.0 / kExamples;
  EXPECT_NEAR(checks[0].observed, counts[1], 1e-15);
  EXPECT_NEAR(checks[1].observed, entropy_nats(counts), 1e-13);
  const double deviation = 0.5 / std::sqrt(kExamples);
  expect_near(checks[0].replicated_mean, 0.5, deviation / std::sqrt(kReplicates), "accuracy");
  expect_near(*checks[0].replicated_stddev, deviation, deviation / std::sqrt(2.0 * kReplicates), "its deviation");
  // Delta method: variance of log p over N; bias -(C - 1) / 2 N (Miller 1955), up to N^-2.
  double first = 0.0, second = 0.0;
  for (const double q : p) {
    first += q * std::log(q);
    second += q * std::log(q) * std::log(q);
  }
  const double spread = std::sqrt((second - first * first) / kExamples);
  EXPECT_NEAR(checks[1].replicated_mean, -first - 1.0 / kExamples,
              kSigmas * spread / std::sqrt(kReplicates) + 5.0 / (kExamples * kExamples));
}

TEST_F(Checks, CoinsOfTwoClassesAreLabels) {
  const auto checks = run("bernoulli", test::made_up_data({1}, 2, kExamples), {std::log(3.0)}, "accuracy");
  const double deviation = std::sqrt(0.1875 / kExamples);
  expect_near(checks[0].replicated_mean, 0.75, deviation / std::sqrt(kReplicates), "accuracy");
}

TEST_F(Checks, NoiseIsAFunctionOfTheExample) {
  const auto first = run("gaussian:1", numbers(1), {0.0}, "mean");
  const auto second = run("gaussian:1", numbers(1), {0.0}, "mean");
  EXPECT_EQ(first[0].replicated_mean, second[0].replicated_mean);
}

}  // namespace
}  // namespace credence
