// Examples are read once and pass under every draw chunk by chunk; how large chunks are changes no bit.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "cases.h"
#include "credence/networks/sync_norm.h"
#include "credence/prediction/norm_statistics.h"
#include "credence/prediction/predict.h"
#include "credence/priors/rules.h"

namespace credence {
namespace {

using test::made_up_data;
using test::Model;
using testing::Each;

constexpr std::int64_t kTiny = 1;  // bytes: every block is a chunk

/// Counts how often each example is read.
class Counted final : public DataSource {
 public:
  explicit Counted(MemoryData data) : inner_(std::move(data)), reads(static_cast<std::size_t>(inner_.size())) {
    size_ = inner_.size();
    spec_ = inner_.spec();
  }

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
    for (const std::int64_t example : examples) ++reads[static_cast<std::size_t>(example)];
    inner_.read(examples, batch);
  }
  MemorySource inner_;

 public:
  mutable std::vector<int> reads;  // by example
};

/// One process that counts how often it would have answered others.
class Answering final : public Communicator {
 public:
  Answering() : Communicator(0, 1) {}
  int answers = 0;

 private:
  Pending start_all_reduce(Buffer, Reduction) override { return {}; }
  Pending start_reduce_scatter(Buffer, Reduction) override { return {}; }
  Pending start_all_gather(Buffer) override { return {}; }
  Pending start_broadcast(Buffer, int) override { return {}; }
  void make_progress() override { ++answers; }
};

/// The shortest decimals that give back the same bits.
std::string exact(const Evaluation& evaluation) {
  return to_json(evaluation).dump();
}

void expect_chunks_change_nothing(const EvaluationParts& parts, EvaluationOptions options) {
  options.block = 8;
  const Evaluation whole = evaluate(parts, options);
  for (const std::int64_t bytes : {kTiny, std::int64_t{500}}) {
    options.kept_bytes = bytes;
    const Evaluation chunked = evaluate(parts, options);
    EXPECT_EQ(exact(chunked), exact(whole));
    EXPECT_EQ(chunked.ood_entropy, whole.ood_entropy);
    ASSERT_EQ(chunked.classes.has_value(), whole.classes.has_value());
    if (whole.classes) {
      EXPECT_EQ(chunked.classes->labels, whole.classes->labels);
      EXPECT_EQ(chunked.classes->probabilities, whole.classes->probabilities);
      EXPECT_EQ(chunked.classes->log_likelihood, whole.classes->log_likelihood);
    }
    ASSERT_EQ(chunked.regression.has_value(), whole.regression.has_value());
    if (whole.regression) {
      EXPECT_EQ(chunked.regression->mean, whole.regression->mean);
      EXPECT_EQ(chunked.regression->upper, whole.regression->upper);
    }
    ASSERT_EQ(chunked.surface.has_value(), whole.surface.has_value());
    if (whole.surface) {
      EXPECT_EQ(chunked.surface->probability_stddev, whole.surface->probability_stddev);
    }
  }
}

TEST(Chunks, ChangeNoBitOfAnEvaluation) {
  const auto communicator = make_self_communicator();
  const MemorySource source(made_up_data({4}, 3, 37)), ood(made_up_data({4}, 3, 21));
  Model classes("mlp:6", "categorical", source.spec());
  EvaluationParts parts = classes.parts(source, *communicator);
  parts.ood = &ood;
  parts.training = &source;
  expect_chunks_change_nothing(parts, {.samples = 5,
                                       .seed = 4,
                                       .keep_probabilities = true,
                                       .checks = parse_statistics("accuracy,class-entropy", true)});

  const MemorySource plane(made_up_data({2}, 2, 30));
  Model coins("linear", "bernoulli", plane.spec());
  expect_chunks_change_nothing(coins.parts(plane, *communicator),
                               {.samples = 3, .keep_probabilities = true, .surface = true, .checks = {}});

  const MemorySource numbers(made_up_data({3}, 0, 29, 2));
  Model regression("mlp:5", "heteroscedastic", numbers.spec());
  expect_chunks_change_nothing(regression.parts(numbers, *communicator),
                               {.samples = 3, .checks = parse_statistics("mean,maximum", false)});
}

TEST(Chunks, ChangeNoBitOfAGenerativeNetworksBounds) {
  const auto communicator = make_self_communicator();
  const MemorySource source(made_up_data({4}, 3, 37)), ood(made_up_data({4}, 3, 21));
  Model model("vae:2,5", "vae-gaussian:0.5", source.spec());
  EvaluationParts parts = model.parts(source, *communicator);
  parts.ood = &ood;
  parts.training = &source;
  EvaluationOptions options{.samples = 5, .block = 8, .checks = {}};
  const Evaluation whole = evaluate(parts, options);
  options.kept_bytes = kTiny;
  const Evaluation chunked = evaluate(parts, options);
  EXPECT_EQ(exact(chunked), exact(whole));
  EXPECT_EQ(chunked.generative->importance, whole.generative->importance);
  EXPECT_EQ(chunked.generative->ood_importance, whole.generative->ood_importance);
}

TEST(Chunks, ChargeEveryDrawOnceForAPriorWithoutAClosedForm) {
  const auto communicator = make_self_communicator();
  const MemorySource source(made_up_data({4}, 3, 37));
  const Likelihood likelihood = CategoricalLikelihood{3};
  Network network{build_module("mlp:6", source.spec(), 3, 1)};
  Posterior posterior(plan_posterior(network.layout(), parse_families({}), parse_priors({"scale-mixture:0.5,1,0.002"})),
                      network.values(), 0.1, 1);
  network.bind(posterior.weights());
  const EvaluationParts parts{.network = network,
                              .posterior = posterior,
                              .likelihood = likelihood,
                              .source = source,
                              .communicator = *communicator,
                              .training = &source};
  EXPECT_TRUE(evaluate(parts, {.samples = 4}).elbo->kl);
  expect_chunks_change_nothing(parts, {.samples = 4, .checks = {}});
}

TEST(Chunks, ReadEachExampleOnceUnderAllDraws) {
  const auto communicator = make_self_communicator();
  for (const std::int64_t bytes : {kTiny, kKeptInputBytes}) {
    const Counted source(made_up_data({4}, 3, 37)), ood(made_up_data({4}, 3, 21)), training(made_up_data({4}, 3, 40));
    Model model("mlp:6", "categorical", source.spec());
    EvaluationParts parts = model.parts(source, *communicator);
    parts.ood = &ood;
    parts.training = &training;
    evaluate(parts, {.samples = 5, .block = 8, .checks = {}, .kept_bytes = bytes});
    EXPECT_THAT(source.reads, Each(1));
    EXPECT_THAT(ood.reads, Each(1));
    EXPECT_THAT(training.reads, Each(1));
  }
}

TEST(Chunks, ChangeNoBitOfPredictions) {
  const auto communicator = make_self_communicator();
  const Counted first(made_up_data({4}, 3, 37)), second(made_up_data({4}, 3, 20));
  Model model("mlp:6", "categorical", first.spec());
  const std::vector<PredictionInput> inputs = {{first, 0, 37}, {second, 3, 15}};
  const auto run = [&](std::int64_t bytes) {
    return predict({model.network, model.posterior, model.likelihood, *communicator}, inputs,
                   {.samples = 4, .seed = 2, .block = 8, .kept_bytes = bytes});
  };
  const auto whole = run(kKeptInputBytes);
  EXPECT_THAT(first.reads, Each(1));
  const auto chunked = run(kTiny);
  EXPECT_THAT(first.reads, Each(2));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(chunked[i].probabilities, whole[i].probabilities);
    EXPECT_EQ(chunked[i].probability_stddev, whole[i].probability_stddev);
    EXPECT_EQ(chunked[i].mutual_information, whole[i].mutual_information);
  }
}

TEST(Chunks, OtherRanksAreAnsweredAfterEveryBlock) {
  Answering communicator;
  const MemorySource source(made_up_data({4}, 3, 37));  // 5 blocks
  Model model("mlp:6", "categorical", source.spec());
  evaluate(model.parts(source, communicator), {.samples = 6, .block = 8, .checks = {}});
  EXPECT_GE(communicator.answers, 5 + 5 * (6 + 1));  // read, under the draws, at the mean
}

struct NormalizedImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& inputs) { return last(torch::tanh(norm(first(inputs)))); }
  torch::nn::Linear first = register_module("first", torch::nn::Linear(4, 6));
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(6));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(6, 3));
};

/// Statistics of batch normalisation that are estimated under each draw.
class Refresh : public testing::Test {
 protected:
  Refresh() {
    torch::manual_seed(1);
    network_ = std::make_unique<Network>(torch::nn::AnyModule(std::make_shared<NormalizedImpl>()));
    posterior_ = std::make_unique<Posterior>(
        plan_posterior(network_->layout(), parse_families({}), parse_priors({"normal:1"})), network_->values(), 0.3, 1);
    network_->bind(posterior_->weights());
    statistics_ = std::make_unique<NormStatistics>(*network_, NormStatistics::Data{training_, plan_, kBatches});
  }
  EvaluationParts parts(NormStatistics* norms) {
    return {.network = *network_,
            .posterior = *posterior_,
            .likelihood = likelihood_,
            .source = source_,
            .communicator = communicator_,
            .norms = norms};
  }

  static constexpr std::int64_t kBatches = 3;
  const MemorySource source_{made_up_data({4}, 3, 37)};
  const Counted training_{made_up_data({4}, 3, 40)};
  const SamplingPlan plan_{1, 40, 10, 1};
  const Likelihood likelihood_ = CategoricalLikelihood{3};
  Answering communicator_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Posterior> posterior_;
  std::unique_ptr<NormStatistics> statistics_;
};

TEST_F(Refresh, ChunksChangeNoBit) {
  EXPECT_NE(exact(evaluate(parts(statistics_.get()), {.samples = 3})), exact(evaluate(parts(nullptr), {.samples = 3})));
  expect_chunks_change_nothing(parts(statistics_.get()), {.samples = 4, .keep_probabilities = true, .checks = {}});
}

TEST_F(Refresh, IsOncePerDrawWhateverTheChunks) {
  evaluate(parts(nullptr), {.samples = 4, .block = 8, .kept_bytes = kTiny});
  const int without = communicator_.answers;
  communicator_.answers = 0;
  evaluate(parts(statistics_.get()), {.samples = 4, .block = 8, .kept_bytes = kTiny});
  EXPECT_EQ(communicator_.answers - without, kBatches * (4 + 1));  // batches under each draw and at the mean
  EXPECT_EQ(std::accumulate(training_.reads.begin(), training_.reads.end(), 0), kBatches * 10);
}

struct SynchronisedImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& inputs) { return last(norm->normalize(inputs).mean({2, 3})); }
  std::shared_ptr<SyncBatchNorm> norm = register_module("norm", std::make_shared<SyncBatchNorm>(2));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(2, 3));
};

TEST_F(Refresh, OfASynchronisedNormIsOverAllShards) {
  const MemorySource training(made_up_data({2, 3, 3}, 3, 40));
  const SamplingPlan plan(1, 40, 20, 10), whole(1, 40, 20, 1);
  Network network{torch::nn::AnyModule(std::make_shared<SynchronisedImpl>())};
  const auto found = NormStatistics(network, {training, plan, 2}).estimate(communicator_);
  ASSERT_EQ(found.size(), 1U);
  torch::Tensor mean = torch::zeros({2}, torch::kFloat64), variance = mean.clone();
  for (int step = 0; step < 2; ++step) {
    Batch batch;
    training.read(whole.select(step, 0).examples, batch);
    const torch::Tensor inputs = torch::tensor(batch.inputs, torch::kFloat64).view({20, 2, 3, 3});
    mean += inputs.mean({0, 2, 3}) / 2.0;
    variance += inputs.var({0, 2, 3}) / 2.0;
  }
  const double rounding = 20 * 9 * 0x1p-24 * variance.max().item<double>();  // of so many terms
  EXPECT_TRUE(torch::allclose(found[0].first, mean, 0.0, rounding));
  EXPECT_TRUE(torch::allclose(found[0].second, variance, 0.0, rounding));
}

}  // namespace
}  // namespace credence
