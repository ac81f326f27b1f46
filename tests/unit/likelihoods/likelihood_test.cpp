// Likelihoods against values of SciPy (tests/references/likelihoods).
#include "credence/likelihoods/likelihood.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"

namespace credence {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const nlohmann::json& reference(const std::string& name) {
  static const nlohmann::json all = [] {
    std::ifstream file(CREDENCE_REFERENCES "/likelihoods/likelihoods.json");
    std::ifstream regression(CREDENCE_REFERENCES "/likelihoods/regression.json");
    nlohmann::json merged = nlohmann::json::parse(file);
    merged.update(nlohmann::json::parse(regression)["densities"]);
    return merged;
  }();
  return all.at(name);
}

torch::Tensor matrix(const nlohmann::json& rows) {
  std::vector<double> flat;
  for (const auto& row : rows) {
    for (const double value : row) flat.push_back(value);
  }
  return torch::tensor(flat, torch::kFloat64).view({static_cast<std::int64_t>(rows.size()), -1});
}

torch::Tensor vector_of(const nlohmann::json& values) {
  return torch::tensor(values.get<std::vector<double>>(), torch::kFloat64);
}

ExampleSpec spec_of(std::vector<std::int64_t> input_shape, std::int64_t classes = 0, std::int64_t target_size = 0) {
  ExampleSpec spec;
  spec.input_shape = std::move(input_shape);
  spec.classes = classes;
  spec.target_size = target_size;
  return spec;
}

struct Example {
  Likelihood likelihood;
  torch::Tensor outputs, targets, log_likelihoods;
};

std::vector<Example> examples() {
  std::vector<Example> list;
  const auto& categorical = reference("categorical");
  list.push_back({CategoricalLikelihood{4}, matrix(categorical["outputs"]),
                  vector_of(categorical["targets"]).to(torch::kInt64), vector_of(categorical["log_likelihoods"])});
  const auto& bernoulli = reference("bernoulli");
  list.push_back({BernoulliLikelihood{3}, matrix(bernoulli["outputs"]), matrix(bernoulli["targets"]),
                  vector_of(bernoulli["log_likelihoods"])});
  const auto& gaussian = reference("gaussian");
  list.push_back({GaussianLikelihood{gaussian["scale"], 2}, matrix(gaussian["outputs"]), matrix(gaussian["targets"]),
                  vector_of(gaussian["log_likelihoods"])});
  const auto& student = reference("student_t");
  const std::pair<const char*, Likelihood> two_columns[] = {
      {"learned", LearnedGaussianLikelihood{2}},
      {"heteroscedastic", HeteroscedasticLikelihood{2}},
      {"poisson", PoissonLikelihood{2}},
      {"student_t", StudentTLikelihood{student["dof"], student["scale"], 2}}};
  for (const auto& [name, likelihood] : two_columns) {
    const auto& values = reference(name);
    list.push_back(
        {likelihood, matrix(values["outputs"]), matrix(values["targets"]), vector_of(values["log_likelihoods"])});
  }
  return list;
}

TEST(Likelihoods, AgreeWithScipy) {
  for (const Example& example : examples()) {
    // A few roundings of double relative to the largest term of each sum; logits are at most 1e4.
    const double tolerance = 1e-15 * 4e4;
    const torch::Tensor actual = log_likelihoods(example.likelihood, example.outputs, example.targets);
    EXPECT_EQ(actual.scalar_type(), torch::kFloat64);
    EXPECT_LT((actual - example.log_likelihoods).abs().max().item<double>(), tolerance) << example.likelihood.index();
    const double nll =
        mean_negative_log_likelihood(example.likelihood, example.outputs, example.targets).item<double>();
    EXPECT_NEAR(nll, -example.log_likelihoods.mean().item<double>(), tolerance) << example.likelihood.index();
  }
}

TEST(Likelihoods, AgreeWithScipyInSinglePrecision) {
  for (const Example& example : examples()) {
    const torch::Tensor targets =
        example.targets.is_floating_point() ? example.targets.to(torch::kFloat32) : example.targets;
    const torch::Tensor nll =
        mean_negative_log_likelihood(example.likelihood, example.outputs.to(torch::kFloat32), targets);
    EXPECT_EQ(nll.scalar_type(), torch::kFloat32);
    // Outputs, targets and every operation are rounded to 2^-24: a dozen of them on terms of the size of the largest.
    const double largest = example.log_likelihoods.abs().max().item<double>();
    EXPECT_NEAR(nll.item<double>(), -example.log_likelihoods.mean().item<double>(), 12 * 0x1p-24 * (largest + 1.0))
        << example.likelihood.index();
  }
}

TEST(Likelihoods, GradientsAreThoseOfFiniteDifferences) {
  for (const Example& example : examples()) {
    // The rows with logits of 1e4 are left out: their loss is too large for differences.
    const std::int64_t rows = std::min<std::int64_t>(example.outputs.size(0), 5);
    torch::Tensor outputs = example.outputs.narrow(0, 0, rows).clone().requires_grad_();
    const torch::Tensor targets = example.targets.narrow(0, 0, rows);
    mean_negative_log_likelihood(example.likelihood, outputs, targets).backward();
    const torch::NoGradGuard no_grad;
    torch::Tensor flat = outputs.view({-1});
    const auto loss = [&] {
      return -log_likelihoods(example.likelihood, outputs, targets).mean().template item<double>();
    };
    // Central differences with h = 1e-5: truncation h^2 / 6 and rounding 1e-16 / h, each times values up to a thousand.
    const double h = 1e-5;
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      const double at = flat[i].item<double>();
      flat[i] = at + h;
      const double above = loss();
      flat[i] = at - h;
      const double below = loss();
      flat[i] = at;
      EXPECT_NEAR(outputs.grad().view({-1})[i].item<double>(), (above - below) / (2.0 * h), 1e-7)
          << example.likelihood.index() << " " << i;
    }
  }
}

TEST(Likelihoods, NoiseNeedsItsOutputs) {
  const torch::Tensor means = torch::zeros({3, 2});
  for (const Likelihood& likelihood :
       std::vector<Likelihood>{LearnedGaussianLikelihood{2}, HeteroscedasticLikelihood{2}}) {
    EXPECT_THAT([&] { mean_negative_log_likelihood(likelihood, means, means); },
                ThrowsMessage<UserError>(HasSubstr("reads 4 values")));
  }
}

TEST(Likelihoods, ProbabilitiesAgreeWithScipy) {
  const auto& categorical = reference("categorical");
  const torch::Tensor p = class_probabilities(CategoricalLikelihood{4}, matrix(categorical["outputs"]));
  EXPECT_LT((p - matrix(categorical["probabilities"])).abs().max().item<double>(), 1e-14);
  const auto& bernoulli = reference("bernoulli");
  const torch::Tensor pair = class_probabilities(BernoulliLikelihood{1}, matrix(bernoulli["outputs"]).narrow(1, 0, 1));
  const torch::Tensor expected = vector_of(bernoulli["first_column_probabilities"]);
  EXPECT_EQ(pair.sizes().vec(), (std::vector<std::int64_t>{6, 2}));
  EXPECT_LT((pair.select(1, 1) - expected).abs().max().item<double>(), 1e-15);
  EXPECT_LT((pair.select(1, 0) - (1.0 - expected)).abs().max().item<double>(), 1e-15);
  EXPECT_THROW(class_probabilities(GaussianLikelihood{1.0, 1}, torch::zeros({2, 1})), InternalError);
  EXPECT_THROW(class_probabilities(BernoulliLikelihood{2}, torch::zeros({2, 2})), InternalError);
}

TEST(Likelihoods, ExtremeOutputsStayFinite) {
  const torch::Tensor targets = torch::tensor({0, 1, 0}, torch::kInt64);
  const torch::Tensor columns = torch::tensor({0.0F, 1.0F, 0.0F}).view({3, 1});
  for (const float size : {1e4F, 1e30F}) {
    torch::Tensor logits = torch::tensor({-size, size, size, -size, size, size}).view({3, 2}).requires_grad_();
    torch::Tensor loss = mean_negative_log_likelihood(CategoricalLikelihood{2}, logits, targets);
    loss.backward();
    EXPECT_TRUE(std::isfinite(loss.item<double>()));
    EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
    EXPECT_TRUE(log_likelihoods(CategoricalLikelihood{2}, logits, targets).isfinite().all().item<bool>());
    const torch::Tensor p = class_probabilities(CategoricalLikelihood{2}, logits);
    EXPECT_LT((p.sum(1) - 1.0).abs().max().item<double>(), 1e-15);

    torch::Tensor column = torch::tensor({-size, size, size}).view({3, 1}).requires_grad_();
    loss = mean_negative_log_likelihood(BernoulliLikelihood{1}, column, columns);
    loss.backward();
    EXPECT_TRUE(std::isfinite(loss.item<double>()));
    EXPECT_TRUE(column.grad().isfinite().all().item<bool>());
    EXPECT_TRUE(log_likelihoods(BernoulliLikelihood{1}, column, columns).isfinite().all().item<bool>());
  }
}

TEST(Likelihoods, CountsWhatIsRankedFirst) {
  const torch::Tensor logits = torch::tensor({3.0, 1.0, 2.0, 0.0, 5.0, 1.0, 0.0, 1.0, 2.0}).view({3, 3});
  EXPECT_EQ(count_correct(CategoricalLikelihood{3}, logits, torch::tensor({0, 1, 0}, torch::kInt64)), 2);
  const torch::Tensor column = torch::tensor({2.0, -1.0, 0.5, -3.0}).view({4, 1});
  const torch::Tensor hits = torch::tensor({1.0, 1.0, 0.0, 0.0}).view({4, 1});
  EXPECT_EQ(count_correct(BernoulliLikelihood{1}, column, hits), 2);
  EXPECT_EQ(count_correct(GaussianLikelihood{1.0, 1}, column, hits), 0);
  EXPECT_EQ(count_correct(BernoulliLikelihood{2}, torch::ones({2, 2}), torch::ones({2, 2})), 0);
}

TEST(Likelihoods, SpecsFitTheExamples) {
  const ExampleSpec labels = spec_of({2}, 3);
  const ExampleSpec pairs = spec_of({2}, 2);
  const ExampleSpec reals = spec_of({2}, 0, 4);
  EXPECT_EQ(output_size(parse_likelihood("categorical", labels)), 3);
  EXPECT_EQ(output_size(parse_likelihood("bernoulli", pairs)), 1);
  EXPECT_EQ(output_size(parse_likelihood("bernoulli", reals)), 4);
  EXPECT_EQ(output_size(parse_likelihood("gaussian:0.5", reals)), 4);
  EXPECT_EQ(std::get<GaussianLikelihood>(parse_likelihood("gaussian:0.5", reals)).scale, 0.5);
  EXPECT_EQ(std::get<GaussianLikelihood>(parse_likelihood("gaussian", reals)).scale, 1.0);

  const Likelihood learned = parse_likelihood("gaussian:learned", reals);
  EXPECT_EQ(output_size(learned), 4);
  EXPECT_EQ(columns_read(learned), 8);
  ASSERT_EQ(initial_raw_scales(learned).size(), 4U);
  EXPECT_NEAR(std::log1p(std::exp(initial_raw_scales(learned)[3])), 1.0, 1e-15);
  const Likelihood heteroscedastic = parse_likelihood("heteroscedastic", reals);
  EXPECT_EQ(output_size(heteroscedastic), 8);
  EXPECT_EQ(columns_read(heteroscedastic), 8);
  EXPECT_EQ(target_columns(heteroscedastic), 4);
  EXPECT_EQ(output_size(parse_likelihood("poisson", reals)), 4);
  for (const auto& [spec, dof, scale] : std::vector<std::tuple<const char*, double, double>>{
           {"student-t", 4.0, 1.0}, {"student-t:3", 3.0, 1.0}, {"student-t:2.5,0.1", 2.5, 0.1}}) {
    const auto t = std::get<StudentTLikelihood>(parse_likelihood(spec, reals));
    EXPECT_EQ(t.dof, dof) << spec;
    EXPECT_EQ(t.scale, scale) << spec;
    EXPECT_EQ(t.columns, 4) << spec;
  }

  EXPECT_THROW(parse_likelihood("categorical", reals), UserError);
  EXPECT_THROW(parse_likelihood("bernoulli", labels), UserError);
  for (const char* spec : {"gaussian:1", "gaussian:learned", "heteroscedastic", "poisson", "student-t"}) {
    EXPECT_THAT([&] { parse_likelihood(spec, labels); }, ThrowsMessage<UserError>(HasSubstr("class labels"))) << spec;
  }
  for (const char* spec : {"gaussian:0", "gaussian:-1", "gaussian:nan", "gaussian:inf", "gaussian:a", "bernoulli:1",
                           "categorical:3", "", "poisson:1", "heteroscedastic:1", "gaussian:learnt", "student-t:0",
                           "student-t:4,0", "student-t:4,1,1", "student-t:a", "student-t:1e7", "studentt"}) {
    EXPECT_THROW(parse_likelihood(spec, reals), UserError) << spec;
  }
  EXPECT_THROW(parse_likelihood("categorical:3", labels), UserError);
  EXPECT_THAT([&] { parse_likelihood("categorial", labels); }, ThrowsMessage<UserError>(HasSubstr("categorical")));
}

TEST(Targets, AreWhatTheLikelihoodWants) {
  Batch batch;
  batch.size = 3;
  batch.inputs = {1, 2, 3, 4, 5, 6};
  batch.labels = {0, 1, 1};
  const ExampleSpec spec = spec_of({2}, 2);
  const Examples classes = to_tensors(batch, spec, CategoricalLikelihood{2}, torch::kFloat32, torch::kCPU);
  EXPECT_TRUE(torch::equal(classes.targets, torch::tensor({0, 1, 1}, torch::kInt64)));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(classes.inputs.data_ptr()) % 64, 0U);  // as LibTorch aligns
  EXPECT_EQ(classes.inputs[2][1].item<float>(), 6.0F);
  EXPECT_EQ(classes.inputs.sizes().vec(), (std::vector<std::int64_t>{3, 2}));
  const Examples column = to_tensors(batch, spec, BernoulliLikelihood{1}, torch::kFloat64, torch::kCPU);
  EXPECT_TRUE(torch::equal(column.targets, torch::tensor({0.0, 1.0, 1.0}, torch::kFloat64).view({3, 1})));
  EXPECT_EQ(column.inputs[2][1].item<double>(), 6.0);

  Batch reals;
  reals.size = 2;
  reals.inputs = {1, 2, 3, 4};
  reals.targets = {1.0F, 0.0F, 0.0F, 1.0F};
  EXPECT_EQ(target_tensor(BernoulliLikelihood{2}, reals, torch::kFloat32).sizes().vec(),
            (std::vector<std::int64_t>{2, 2}));
  EXPECT_THROW(target_tensor(GaussianLikelihood{1.0, 3}, reals, torch::kFloat32), InternalError);
  for (const float bad : {0.5F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    reals.targets[3] = bad;
    EXPECT_THROW(target_tensor(BernoulliLikelihood{2}, reals, torch::kFloat32), DataError) << bad;
    EXPECT_NO_THROW(target_tensor(GaussianLikelihood{1.0, 2}, reals, torch::kFloat32));
    EXPECT_THROW(target_tensor(PoissonLikelihood{2}, reals, torch::kFloat32), DataError) << bad;
  }
  reals.targets[3] = 17.0F;
  EXPECT_EQ(target_tensor(PoissonLikelihood{2}, reals, torch::kFloat32)[1][1].item<float>(), 17.0F);
}

}  // namespace
}  // namespace credence
