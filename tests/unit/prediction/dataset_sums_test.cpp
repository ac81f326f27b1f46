#include "credence/prediction/dataset_sums.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "credence/communication/factory.h"
#include "credence/prediction/calibration.h"

namespace credence {
namespace {

TEST(PredictionSums, MatchNumPySciPyAndScikitLearn) {
  std::ifstream file(CREDENCE_REFERENCES "/prediction/metrics.json");
  const auto reference = nlohmann::json::parse(file)["classification"];
  const auto labels = reference["labels"].get<std::vector<std::int64_t>>();
  const auto logits = reference["logits"].get<std::vector<std::vector<std::vector<double>>>>();
  const auto communicator = make_self_communicator();
  const Likelihood likelihood = CategoricalLikelihood{reference["classes"].get<std::int64_t>()};
  const std::int64_t block = 12;
  const BlockShare share(static_cast<std::int64_t>(labels.size()), block, *communicator);
  PredictionSums sums(likelihood, share, PredictionSums::Content::scored);
  for (std::size_t draw = 0; draw < logits.size(); ++draw) {
    for (std::int64_t i = 0; i < share.blocks; ++i) {
      Batch batch;
      batch.size = share.end(i) - share.begin(i);
      batch.labels.assign(labels.begin() + share.begin(i), labels.begin() + share.end(i));
      std::vector<torch::Tensor> rows;
      for (std::int64_t row = share.begin(i); row < share.end(i); ++row) {
        rows.push_back(torch::tensor(logits[draw][static_cast<std::size_t>(row)], torch::kFloat64));
      }
      sums.add({static_cast<int>(draw), i, share.begin(i), torch::stack(rows), batch});
    }
  }
  const auto scores = sums.scores(static_cast<int>(logits.size()), reference["bins"].get<int>(), true, *communicator);

  // 41 values of order 1 in double, each from some ten operations.
  const double tolerance = 1e-13;
  for (const auto& [name, value] : scores.metrics.defined()) {
    // Class-wise sums round every probability to 2^-40.
    const double rounding = name == "classwise_ece" ? 0x1p-41 : 0.0;
    EXPECT_NEAR(value, reference["expected"][name].get<double>(), tolerance + rounding) << name;
  }
  EXPECT_EQ(scores.metrics.defined().size(), reference["expected"].size());
  const auto log_likelihood = reference["log_likelihood"].get<std::vector<double>>();
  const auto information = reference["mutual_information"].get<std::vector<double>>();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    // Example 0 has a log likelihood in the hundreds.
    EXPECT_NEAR(scores.classes->log_likelihood[i], log_likelihood[i], tolerance * std::max(1.0, -log_likelihood[i]));
    EXPECT_NEAR(scores.classes->mutual_information[i], information[i], tolerance);
  }
  EXPECT_THAT(risk_coverage(*scores.classes).risk,
              testing::Pointwise(testing::DoubleNear(tolerance), reference["risk"].get<std::vector<double>>()));
  const auto& ranks = scores.classes->label_rank;
  const auto among_two = std::count_if(ranks.begin(), ranks.end(), [](std::int64_t rank) { return rank < 2; });
  EXPECT_NEAR(static_cast<double>(among_two), 41.0 * reference["top2_accuracy"].get<double>(), 1e-9);
  const Reliability bins = reliability(*scores.classes, reference["bins"].get<int>());
  EXPECT_EQ(bins.count, reference["reliability"]["count"].get<std::vector<std::int64_t>>());
  EXPECT_THAT(bins.confidence, testing::Pointwise(testing::DoubleNear(tolerance),
                                                  reference["reliability"]["confidence"].get<std::vector<double>>()));
  EXPECT_THAT(bins.accuracy, testing::Pointwise(testing::DoubleNear(tolerance),
                                                reference["reliability"]["accuracy"].get<std::vector<double>>()));
}

}  // namespace
}  // namespace credence
