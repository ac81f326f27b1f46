// Evaluation over several ranks gives the bits of one rank that does it all.
#include <gmock/gmock.h>

#include <bit>
#include <cmath>

#include "support/mpi_test.h"
#include "unit/prediction/cases.h"

namespace credence {
namespace {

using test::made_up_data;
using test::Model;

std::unique_ptr<Communicator> over_mpi(ReductionOrder order) {
  MpiOptions options;
  options.order = order;
  options.timeout_seconds = 30.0;
  return make_mpi_communicator(credence::testing::mpi_session(), options);
}

void expect_same_bits(const std::vector<double>& a, const std::vector<double>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint64_t>(a[i]), std::bit_cast<std::uint64_t>(b[i])) << what << " " << i;
  }
}

void expect_same_bits(const Metrics& a, const Metrics& b) {
  EXPECT_EQ(a.samples, b.samples);
  const auto left = a.defined();
  const auto right = b.defined();
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].first, right[i].first);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(left[i].second), std::bit_cast<std::uint64_t>(right[i].second))
        << left[i].first << ": " << left[i].second << " and " << right[i].second;
  }
}

void expect_same_bits(const Evaluation& a, const Evaluation& b) {
  expect_same_bits(a.predictive, b.predictive);
  expect_same_bits(a.mean, b.mean);
  expect_same_bits(a.ood_entropy, b.ood_entropy, "ood entropy");
  ASSERT_EQ(a.classes.has_value(), b.classes.has_value());
  if (a.classes) {
    EXPECT_EQ(a.classes->labels, b.classes->labels);
    EXPECT_EQ(a.classes->predicted, b.classes->predicted);
    expect_same_bits(a.classes->probabilities, b.classes->probabilities, "probability");
    expect_same_bits(a.classes->mutual_information, b.classes->mutual_information, "mutual information");
  }
  ASSERT_EQ(a.regression.has_value(), b.regression.has_value());
  if (a.regression) {
    expect_same_bits(a.regression->mean, b.regression->mean, "mean");
    expect_same_bits(a.regression->scale, b.regression->scale, "scale");
    expect_same_bits(a.regression->lower, b.regression->lower, "lower end");
    expect_same_bits(a.regression->upper, b.regression->upper, "upper end");
  }
  ASSERT_EQ(a.surface.has_value(), b.surface.has_value());
  if (a.surface) {
    expect_same_bits(a.surface->probability, b.surface->probability, "surface");
    expect_same_bits(a.surface->probability_stddev, b.surface->probability_stddev, "surface deviation");
  }
  ASSERT_EQ(a.checks.size(), b.checks.size());
  for (std::size_t i = 0; i < a.checks.size(); ++i) {
    const auto numbers = [](const PredictiveCheck& check) {
      return std::vector{check.observed, check.replicated_mean, *check.replicated_stddev, check.tail_probability};
    };
    EXPECT_EQ(a.checks[i].statistic, b.checks[i].statistic);
    EXPECT_EQ(a.checks[i].column, b.checks[i].column);
    expect_same_bits(numbers(a.checks[i]), numbers(b.checks[i]), "check");
  }
  ASSERT_EQ(a.elbo.has_value(), b.elbo.has_value());
  if (a.elbo) {
    expect_same_bits({a.elbo->expected_log_likelihood, *a.elbo->elbo, *a.elbo->standard_error, *a.elbo->kl},
                     {b.elbo->expected_log_likelihood, *b.elbo->elbo, *b.elbo->standard_error, *b.elbo->kl}, "elbo");
  }
}

struct Case {
  const char* network;
  const char* likelihood;
  MemoryData data;
  bool ood;
};

/// 53 examples in blocks of 8: seven blocks, the last of five, shared unevenly by 2 and by 4 ranks.
void expect_ranks_change_nothing(const Case& test, ReductionOrder order) {
  const MemorySource source(test.data);
  Model model(test.network, test.likelihood, source.spec());
  const auto alone = make_self_communicator();
  const auto together = over_mpi(order);
  const auto run = [&](Communicator& communicator) {
    EvaluationParts parts = model.parts(source, communicator);
    parts.training = &source;
    if (test.ood) parts.ood = &source;
    return evaluate(
        parts, {.samples = 3,
                .seed = 9,
                .block = 8,
                .keep_probabilities = true,
                .surface = true,
                .checks = parse_statistics(
                    is_classification(model.likelihood) ? "accuracy,class-entropy" : "mean,variance,minimum,maximum",
                    is_classification(model.likelihood))});
  };
  const Evaluation expected = run(*alone);
  const Evaluation actual = run(*together);
  expect_same_bits(expected, actual);
  EXPECT_TRUE(together->size() == 1 || together->traffic().bytes_sent > 0);
}

TEST(EvaluationOverRanks, HasTheBitsOfOneRank) {
  for (const ReductionOrder order : {ReductionOrder::tree, ReductionOrder::fast}) {
    expect_ranks_change_nothing({"lenet5", "categorical", made_up_data({1, 28, 28}, 10, 53), true}, order);
    expect_ranks_change_nothing({"mlp:16,16,tanh", "bernoulli", made_up_data({2}, 2, 53), true}, order);
    expect_ranks_change_nothing({"mlp:16", "gaussian:0.5", made_up_data({3}, 0, 53, 2), false}, order);
    expect_ranks_change_nothing({"mlp:16", "gaussian:learned", made_up_data({3}, 0, 53, 2), false}, order);
    expect_ranks_change_nothing({"mlp:16", "heteroscedastic", made_up_data({3}, 0, 53, 2), false}, order);
    expect_ranks_change_nothing({"mlp:16", "student-t:3", made_up_data({3}, 0, 53, 2), false}, order);
    MemoryData counts = made_up_data({3}, 0, 53, 2);
    for (float& target : counts.targets) target = std::floor(4.0F + 4.0F * target);
    expect_ranks_change_nothing({"linear", "poisson", counts, false}, order);
    for (float& target : counts.targets) target = target > 4.0F ? 1.0F : 0.0F;
    expect_ranks_change_nothing({"linear", "bernoulli", counts, false}, order);
  }
}

TEST(EvaluationOverRanks, LeavesRanksWithoutBlocksWhereThereAreFewerBlocksThanRanks) {
  expect_ranks_change_nothing({"linear", "categorical", made_up_data({3}, 3, 11), true}, ReductionOrder::tree);
}

/// A dataset that one rank cannot read.
class Unreadable final : public DataSource {
 public:
  explicit Unreadable(bool fails) : inner_(made_up_data({3}, 3, 40)), fails_(fails) {
    size_ = inner_.size();
    spec_ = inner_.spec();
  }

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
    if (fails_) throw DataError("record 17 is damaged");
    inner_.read(examples, batch);
  }
  MemorySource inner_;
  bool fails_;
};

TEST(EvaluationOverRanks, FailsOnAllRanksTogether) {
  const auto communicator = over_mpi(ReductionOrder::tree);
  const Unreadable source(communicator->rank() == communicator->size() - 1);
  Model model("linear", "categorical", source.spec());
  EXPECT_THAT([&] { evaluate(model.parts(source, *communicator), {.samples = 2, .block = 8}); },
              ::testing::ThrowsMessage<DataError>(::testing::HasSubstr("record 17")));
  communicator->barrier();  // nobody is left in a collective of the evaluation
}

TEST(EvaluationOverRanks, NamesTheSameExampleThatIsNotFiniteOnAllRanks) {
  MemoryData data = made_up_data({3}, 3, 40);
  data.inputs[3 * 33] = 3e38F;
  const MemorySource source(data);
  Model model("linear", "categorical", source.spec());
  torch::Tensor mean = model.posterior.mean();
  mean.mul_(100.0F);
  const auto communicator = over_mpi(ReductionOrder::tree);
  EXPECT_THAT([&] { evaluate(model.parts(source, *communicator), {.samples = 2, .block = 8}); },
              ::testing::ThrowsMessage<NumericalError>(::testing::HasSubstr("of example 33 is")));
  communicator->barrier();
}

}  // namespace
}  // namespace credence
