// What needs no network. The reference values are NumPy's, SciPy's and scikit-learn's:
// references/prediction/metrics.py.
#include "credence/prediction/metrics.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"
#include "credence/communication/factory.h"
#include "credence/prediction/calibration.h"
#include "credence/prediction/running_sums.h"
#include "credence/prediction/statistics.h"

namespace credence {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

nlohmann::json references() {
  std::ifstream file(CREDENCE_REFERENCES "/prediction/metrics.json");
  return nlohmann::json::parse(file);
}

TEST(AreaUnderRoc, CountsTiesHalfAsScikitLearnDoes) {
  const auto reference = references()["ranking"];
  const auto negatives = reference["negatives"].get<std::vector<double>>();
  const auto positives = reference["positives"].get<std::vector<double>>();
  EXPECT_NEAR(area_under_roc(negatives, positives), reference["auroc"].get<double>(), 1e-14);
  EXPECT_NEAR(area_under_roc(positives, negatives), 1.0 - reference["auroc"].get<double>(), 1e-14);
}

TEST(AreaUnderRoc, IsExactAtItsBorders) {
  EXPECT_EQ(area_under_roc(std::vector{1.0, 2.0}, std::vector{3.0}), 1.0);
  EXPECT_EQ(area_under_roc(std::vector{1.0, 2.0}, std::vector{0.0}), 0.0);
  EXPECT_EQ(area_under_roc(std::vector{1.0, 1.0, 1.0}, std::vector{1.0, 1.0}), 0.5);
  EXPECT_EQ(area_under_roc(std::vector{1.0, 3.0}, std::vector{1.0, 2.0}), 0.375);  // (1/2 + 0 + 1 + 0) / 4
}

TEST(LogMeanExp, MatchesSciPyWhereExponentialsLeaveTheRangeOfDoubles) {
  const auto rows = references()["log_mean_exp"];
  ASSERT_EQ(rows.size(), 3U);
  for (const auto& row : rows) {
    const auto values = row["values"].get<std::vector<double>>();
    const double expected = row["result"].get<double>();
    LogMeanExp sums(2);
    for (const double value : values) sums.add(1, value);
    EXPECT_NEAR(sums.result(1, static_cast<int>(values.size())), expected, 1e-15 * std::max(1.0, std::abs(expected)));
  }
}

TEST(LogMeanExp, OfOneDrawIsTheValueAndImpossibleDrawsCountAsZero) {
  LogMeanExp sums(3);
  sums.add(0, -1234.5678);
  EXPECT_EQ(sums.result(0, 1), -1234.5678);
  sums.add(1, -kInfinity);
  EXPECT_EQ(sums.result(1, 1), -kInfinity);
  sums.add(1, 2.0);
  sums.add(1, -kInfinity);
  EXPECT_DOUBLE_EQ(sums.result(1, 3), 2.0 - std::log(3.0));
  sums.add(2, 0.0);
  sums.add(2, std::nan(""));
  EXPECT_TRUE(std::isnan(sums.result(2, 2)));
}

TEST(RunningMoments, KeepTheirDigitsFarFromZero) {
  RunningMoments moments(1);
  // 1e9 + {4, 7, 13, 16}: mean 1e9 + 10, variance 22.5 (divisor 4).
  int draw = 0;
  for (const double value : {4.0, 7.0, 13.0, 16.0}) moments.add(0, draw++, 1e9 + value);
  EXPECT_DOUBLE_EQ(moments.mean(0), 1e9 + 10.0);
  EXPECT_DOUBLE_EQ(moments.variance(0, 4), 22.5);
}

TEST(ClassSums, EqualDrawsHoldNoInformationAboutTheLabel) {
  ClassSums sums(1, 3);
  for (int draw = 0; draw < 32; ++draw) sums.add(0, std::vector{0.7, 0.2, 0.1});
  ClassSums::Row row;
  sums.result(0, 32, row);
  EXPECT_THAT(row.mutual_information, testing::AllOf(testing::Ge(0.0), testing::Le(1e-14)));
  EXPECT_EQ(row.predicted, 0);
}

TEST(ClassSums, DrawsThatDisagreeForCertainHoldAllOfIt) {
  ClassSums sums(2, 2);
  sums.add(0, std::vector{1.0, 0.0, 0.5, 0.5});
  sums.add(0, std::vector{0.0, 1.0, 0.5, 0.5});
  ClassSums::Row row;
  sums.result(0, 2, row);
  EXPECT_DOUBLE_EQ(row.entropy, std::log(2.0));
  EXPECT_DOUBLE_EQ(row.mutual_information, std::log(2.0));
  sums.result(1, 2, row);
  EXPECT_DOUBLE_EQ(row.entropy, std::log(2.0));
  EXPECT_EQ(row.mutual_information, 0.0);
}

ClassPredictions with_confidences(std::vector<double> confidences, std::vector<std::int64_t> labels) {
  ClassPredictions predictions;
  predictions.classes = 2;
  predictions.predicted.assign(labels.size(), 0);
  predictions.labels = std::move(labels);
  predictions.confidence = std::move(confidences);
  return predictions;
}

TEST(Reliability, BinsAreOpenBelowAndTheOutermostHoldTheBorders) {
  const Reliability bins = reliability(with_confidences({0.0, 0.5, 0.500001, 1.0, 0.75}, {0, 0, 1, 0, 1}), 4);
  EXPECT_THAT(bins.count, ElementsAre(1, 1, 2, 1));
  EXPECT_THAT(bins.accuracy, ElementsAre(1.0, 1.0, 0.0, 1.0));
  EXPECT_THAT(bins.confidence, ElementsAre(0.0, 0.5, DoubleNear(0.6250005, 1e-15), 1.0));
  // (1 |1 - 0| + 1 |1 - 0.5| + 2 |0 - 0.6250005| + 1 |1 - 1|) / 5
  EXPECT_NEAR(expected_calibration_error(bins), (1.0 + 0.5 + 1.250001) / 5.0, 1e-15);
}

TEST(RiskCoverage, AnswersTheSurestFirstAndTiesTogether) {
  // By confidence: right, {wrong, right}, wrong.
  const RiskCoverage curve = risk_coverage(with_confidences({0.7, 0.9, 0.5, 0.7}, {1, 0, 1, 0}));
  EXPECT_THAT(curve.risk, ElementsAre(0.0, 0.25, DoubleNear(1.0 / 3.0, 1e-15), 0.5));
  EXPECT_DOUBLE_EQ(curve.area(), (0.25 + 1.0 / 3.0 + 0.5) / 4.0);
  EXPECT_EQ(curve.at(0.25), 0.0);
  EXPECT_EQ(curve.at(0.26), 0.25);
  EXPECT_EQ(curve.at(1.0), 0.5);
}

TEST(AdaptiveCalibration, HasBinsOfEquallyManyExamples) {
  const ClassPredictions predictions = with_confidences({0.9, 0.6, 0.8, 0.7}, {0, 1, 1, 0});
  // {0.6 wrong, 0.7 right}, {0.8 wrong, 0.9 right}
  EXPECT_NEAR(adaptive_calibration_error(predictions, 2), (0.3 + 0.7) / 4.0, 1e-15);
  // More bins than examples: one each, and empty ones.
  EXPECT_NEAR(adaptive_calibration_error(predictions, 9), (0.6 + 0.3 + 0.8 + 0.1) / 4.0, 1e-15);
}

TEST(AdaptiveCalibration, IsTheSameInEveryOrder) {
  // A bin's border lies between equals, two thirds of which are right: |4/3 - 1.5| and |2/3 + 1 - 1.75|.
  constexpr double kExpected = (0.5 / 3.0 + 0.25 / 3.0) / 4.0;
  std::vector<std::int64_t> order = {0, 1, 2, 3};
  do {
    std::vector<double> confidence;
    std::vector<std::int64_t> labels;
    for (const std::int64_t i : order) {
      confidence.push_back(i == 3 ? 1.0 : 0.75);
      labels.push_back(i == 0 ? 1 : 0);
    }
    EXPECT_NEAR(adaptive_calibration_error(with_confidences(confidence, labels), 2), kExpected, 1e-15);
  } while (std::ranges::next_permutation(order).found);
}

TEST(ClasswiseCalibration, IsOfEveryClass) {
  const auto self = make_self_communicator();
  ClasswiseCalibration calibration(3, 2);
  calibration.add(std::vector{0.75, 0.25, 0.0}, 0);
  calibration.add(std::vector{0.75, 0.125, 0.125}, 1);
  // Class 0: one bin, |1 - 1.5|; class 1: |1 - 0.375|; class 2: |0 - 0.125|; over 2 examples and 3 classes.
  EXPECT_DOUBLE_EQ(calibration.error(*self), (0.5 + 0.625 + 0.125) / 2.0 / 3.0);
}

TEST(TopFive, CountsLabelsAmongTheFiveMostProbable) {
  ClassPredictions predictions = with_confidences({0.3, 0.3, 0.3}, {0, 1, 5});
  predictions.log_likelihood = predictions.brier = predictions.entropy =
      predictions.mutual_information = {0.0, 0.0, 0.0};
  predictions.label_rank = {0, 4, 5};
  EXPECT_FALSE(classification_metrics(predictions, 5).top5_accuracy.has_value());
  predictions.classes = 6;
  EXPECT_DOUBLE_EQ(classification_metrics(predictions, 5).top5_accuracy.value(), 2.0 / 3.0);
}

TEST(Entropy, IsThatOfTheDistribution) {
  EXPECT_DOUBLE_EQ(entropy_nats(std::vector{0.25, 0.25, 0.25, 0.25}), std::log(4.0));
  EXPECT_EQ(entropy_nats(std::vector{0.0, 1.0}), 0.0);
  EXPECT_TRUE(std::isnan(entropy_nats(std::vector{0.5, std::nan("")})));
}

TEST(RegressionMetrics, AreOfEveryTarget) {
  RegressionPredictions predictions;
  predictions.targets = {1.0, 2.0, 3.0, 4.0};
  predictions.mean = {1.0, 4.0, 3.0, 4.0};
  predictions.lower = {1.0, 3.0, 0.0, 4.5};  // a border is inside
  predictions.upper = {2.0, 4.0, 3.0, 5.5};
  predictions.aleatoric_scale = {3.0, 3.0, 3.0, 3.0};
  predictions.epistemic_scale = {4.0, 4.0, 4.0, 4.0};
  predictions.scale = {5.0, 5.0, 5.0, 5.0};
  predictions.log_likelihood = {-1.0, -2.0, -3.0, -4.0};
  Metrics metrics = regression_metrics(predictions);
  EXPECT_EQ(*metrics.coverage_90, 0.5);
  EXPECT_EQ(*metrics.interval_width_90, 6.0 / 4.0);
  EXPECT_EQ(*metrics.rmse, 1.0);
  EXPECT_EQ(*metrics.nll, 2.5);
  EXPECT_EQ(*metrics.aleatoric_scale, 3.0);
  EXPECT_EQ(*metrics.epistemic_scale, 4.0);
  EXPECT_EQ(*metrics.scale, 5.0);
  predictions.aleatoric_scale[2] = predictions.scale[2] = INFINITY;
  metrics = regression_metrics(predictions);
  EXPECT_FALSE(metrics.scale || metrics.aleatoric_scale);
  EXPECT_TRUE(metrics.epistemic_scale);
}

TEST(Statistics, AreNamedOnceAndFitThePredictions) {
  EXPECT_THAT(parse_statistics("variance,mean", false), ElementsAre(Statistic::variance, Statistic::mean));
  EXPECT_THAT(parse_statistics("class-entropy", true), ElementsAre(Statistic::class_entropy));
  for (const auto& [text, classes] : std::vector<std::pair<const char*, bool>>{{"", false},
                                                                               {"mean,mean", false},
                                                                               {"median", false},
                                                                               {"accuracy", false},
                                                                               {"mean", true},
                                                                               {"mean,", false}}) {
    EXPECT_THROW(parse_statistics(text, classes), UserError) << text;
  }
}

TEST(Statistics, TailsCountTiesAndAreOfTheObserved) {
  const PredictiveCheck check = compare(Statistic::maximum, std::vector{1.0, 2.0, 3.0, 6.0}, 2.0);
  EXPECT_EQ(check.observed, 2.0);
  EXPECT_EQ(check.replicated_mean, 3.0);
  EXPECT_NEAR(*check.replicated_stddev, std::sqrt(14.0 / 3.0), 1e-15);
  EXPECT_EQ(check.tail_probability, 0.75);
  EXPECT_FALSE(compare(Statistic::mean, std::vector{1.0}, 2.0).replicated_stddev);
  EXPECT_THROW(compare(Statistic::mean, std::vector{1.0, std::nan("")}, 2.0), NumericalError);
}

TEST(OrderedMean, TakesEveryValueOnce) {
  std::vector<double> values(2500);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  EXPECT_EQ(ordered_mean(values), 1249.5);
}

}  // namespace
}  // namespace credence
