// Label smoothing and mixup, against their definitions.
#include <gmock/gmock.h>

#include <cmath>

#include "credence/base/errors.h"
#include "credence/likelihoods/likelihood.h"

namespace credence {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const ExampleSpec kThreeClasses{.input_shape = {2}, .classes = 3, .class_names = {}, .normalization = {}};

double share_of(double alpha, std::uint32_t step) {
  Examples examples{torch::tensor({1.0, 0.0}, torch::kFloat64).view({2, 1}), torch::tensor({0, 1}, torch::kInt64)};
  mix_examples(CategoricalLikelihood{.classes = 2, .mixup = alpha}, {.purpose = kernels::Purpose::mixing, .step = step},
               examples);
  return examples.inputs[0].item<double>();
}

TEST(Smoothing, GivesAPartOfEveryLabelToAllClasses) {
  const torch::Tensor outputs = torch::tensor({0.3, -1.0, 2.0, 0.5, 0.1, -0.7}, torch::kFloat64).view({2, 3});
  const torch::Tensor labels = torch::tensor({2, 0}, torch::kInt64);
  const torch::Tensor log_p = torch::log_softmax(outputs, 1);
  const double plain = -(log_p[0][2] + log_p[1][0]).item<double>() / 2.0;
  const double uniform = -log_p.mean().item<double>();
  const Likelihood smoothed = parse_likelihood("categorical:smoothing=0.2", kThreeClasses);
  EXPECT_NEAR(mean_negative_log_likelihood(smoothed, outputs, labels).item<double>(), 0.8 * plain + 0.2 * uniform,
              1e-14);
  // Evaluation is of the labels as they are.
  EXPECT_NEAR(-log_likelihoods(smoothed, outputs, labels).mean().item<double>(), plain, 1e-14);
  EXPECT_EQ(describe_alteration(smoothed), "label smoothing");
}

TEST(Mixup, MixesInputsAndTargetsAlike) {
  const Likelihood mixing = parse_likelihood("categorical:mixup=0.4", kThreeClasses);
  EXPECT_EQ(describe_alteration(mixing), "mixup");
  const torch::Tensor inputs = torch::tensor({1.0, 2.0, 3.0, 5.0, 7.0, 11.0}, torch::kFloat64).view({3, 2});
  Examples examples{inputs, torch::tensor({2, 1, 0}, torch::kInt64)};
  mix_examples(mixing, {.seed = 3, .purpose = kernels::Purpose::mixing, .step = 4, .shard = 1}, examples);
  const double share = examples.targets[0][2].item<double>();
  EXPECT_GT(share, 0.0);
  EXPECT_LT(share, 1.0);
  EXPECT_TRUE(torch::allclose(examples.inputs, inputs * share + inputs.flip(0) * (1.0 - share), 0.0, 1e-14));
  EXPECT_TRUE(torch::allclose(
      examples.targets,
      torch::tensor({1.0 - share, 0.0, share, 0.0, 1.0, 0.0, share, 0.0, 1.0 - share}, torch::kFloat64).view({3, 3}),
      0.0, 1e-14));
  const torch::Tensor outputs =
      torch::tensor({0.3, -1.0, 2.0, 0.5, 0.1, -0.7, 1.0, 0.0, 0.2}, torch::kFloat64).view({3, 3});
  const double expected =
      share * mean_negative_log_likelihood(mixing, outputs, torch::tensor({2, 1, 0}, torch::kInt64)).item<double>() +
      (1.0 - share) *
          mean_negative_log_likelihood(mixing, outputs, torch::tensor({0, 1, 2}, torch::kInt64)).item<double>();
  EXPECT_NEAR(mean_negative_log_likelihood(mixing, outputs, examples.targets).item<double>(), expected, 1e-14);
  // Ranked first: 2, 0 and 0; the labels with the larger share: 2, 1 and 0, or 0, 1 and 2.
  EXPECT_EQ(count_correct(mixing, outputs, examples.targets), share > 0.5 ? 2 : 0);
}

TEST(Mixup, SharesAreBeta) {
  constexpr int kDraws = 4000;
  for (const double alpha : {1e-13, 0.2, 1.0}) {
    double sum = 0.0, squares = 0.0;
    for (std::uint32_t step = 0; step < kDraws; ++step) {
      const double centred = share_of(alpha, step) - 0.5;
      sum += centred;
      squares += centred * centred;
    }
    const double variance = 1.0 / (4.0 * (2.0 * alpha + 1.0));
    EXPECT_LT(std::abs(sum / kDraws), 5.0 * std::sqrt(variance / kDraws)) << alpha;
    // (x - 1/2)^2 <= 1/4, so the deviation of its mean is at most sqrt(variance / 4 / n).
    EXPECT_LT(std::abs(squares / kDraws - variance), 5.0 * std::sqrt(variance / 4.0 / kDraws)) << alpha;
  }
  EXPECT_EQ(share_of(0.5, 7), share_of(0.5, 7));
  EXPECT_NE(share_of(0.5, 7), share_of(0.5, 8));
}

TEST(Mixing, LeavesExamplesAloneWhereNotAsked) {
  Examples examples{torch::ones({2, 2}), torch::tensor({0, 1}, torch::kInt64)};
  const torch::Tensor inputs = examples.inputs;
  mix_examples(CategoricalLikelihood{2}, {}, examples);
  EXPECT_EQ(examples.inputs.data_ptr(), inputs.data_ptr());
  EXPECT_EQ(examples.targets.dim(), 1);
  EXPECT_EQ(describe_alteration(CategoricalLikelihood{2}), "");
}

TEST(Mixing, RefusesWhatIsNoShare) {
  const auto refused = [](const char* spec, const char* text) {
    EXPECT_THAT([&] { parse_likelihood(spec, kThreeClasses); }, ThrowsMessage<UserError>(HasSubstr(text))) << spec;
  };
  refused("categorical:smoothing=1", "below 1");
  refused("categorical:mixup=1.5", "alpha");
  refused("categorical:mixup", "lacks a value");
  refused("categorical:smoothin=0.1", "smoothing");
}

}  // namespace
}  // namespace credence
