// A run's state through a checkpoint: bit for bit, or refused by name.
#include "credence/training/run_state.h"

#include <gmock/gmock.h>
#include <torch/script.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "credence/base/errors.h"
#include "unit/estimators/cases.h"

namespace credence {
namespace {

using test::Problem;
using test::ProblemOptions;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// A folder that goes with the test.
struct Folder {
  Folder() : path(std::filesystem::temp_directory_path() / ("credence-run-state-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

/// Batch normalisation, Gaussian and point tensors, float and integer buffers.
ProblemOptions mixed() {
  return {.network = "normalized", .families = {"mean-field", "first.bias=point"}, .dtype = torch::kFloat32};
}

struct Model {
  explicit Model(const ProblemOptions& options = mixed(), const OptimizerOptions& rule = {})
      : problem(options),
        optimizer(problem.posterior, rule),
        state{.network = problem.network, .posterior = problem.posterior, .optimizer = optimizer, .history = {}} {}

  /// Numbers with all their bits in use, everywhere.
  void train(int steps) {
    const auto communicator = make_self_communicator();
    ReparameterizedEstimator estimator(problem.parts(*communicator), {.seed = 5, .shards = 2});
    const auto examples = test::examples_of(problem, 2, 4);
    for (; state.step < steps; ++state.step) {
      const StepTotals totals = estimator.run(state.step, test::source_of(examples), {});
      optimizer.step(estimator.gradient(), {.number = state.step,
                                            .gradient_multiplier = estimator.gradient_multiplier(),
                                            .weights = {},
                                            .dataset_size = 20,
                                            .next_draw = estimator.first_draw(state.step + 1)});
      state.epoch = static_cast<double>(state.step + 1) / 3.0;
      state.history.append({.step = state.step + 1,
                            .epoch = state.epoch,
                            .elbo = std::nan(""),
                            .expected_log_likelihood = -totals.mean_nll,
                            .seconds = 0.1 * state.epoch});
    }
  }

  /// Everything that training changes, by name.
  std::vector<std::pair<std::string, torch::Tensor>> values() {
    std::vector<std::pair<std::string, torch::Tensor>> list;
    const auto add = [&](const std::string& name, const torch::Tensor& arena) {
      for (const auto& segment : problem.posterior.segments()) {
        list.emplace_back(name, arena.narrow(0, segment.offset, segment.count).clone());
      }
    };
    add("mean", problem.posterior.mean());
    if (problem.posterior.has_gaussian()) add("raw scale", problem.posterior.raw_scale());
    for (const auto& [name, arena] : optimizer.state()) add(name, arena);
    for (const auto& [name, buffer] : problem.network.float_buffers()) list.emplace_back(name, buffer.clone());
    for (const auto& [name, buffer] : problem.network.integer_buffers()) list.emplace_back(name, buffer.clone());
    for (const auto& column : state.history.columns()) {
      list.emplace_back(column.path,
                        torch::tensor(column.values, torch::kFloat64).view(torch::kInt64));  // NaN equals NaN
    }
    list.emplace_back("step", torch::tensor({state.step}));
    list.emplace_back("epoch", torch::tensor({state.epoch}, torch::kFloat64));
    return list;
  }

  Problem problem;
  Optimizer optimizer;
  RunState state;
};

RunIdentity identity() {
  RunIdentity identity;
  identity.config = "lr = 1\n";
  identity.seed = 5;
  identity.shards = 2;
  identity.dataset_size = 20;
  identity.dataset_digest = "0123";
  identity.bound = "evidence lower bound";
  identity.examples.input_shape = {3};
  identity.examples.classes = 3;
  identity.examples.class_names = {"a, b", "c", "d"};
  identity.examples.normalization = {{0.1, 0.25}, {1.0 / 3.0, 2.0}};
  return identity;
}

bool same(const std::vector<std::pair<std::string, torch::Tensor>>& a,
          const std::vector<std::pair<std::string, torch::Tensor>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].first != b[i].first || !torch::equal(a[i].second, b[i].second)) return false;
  }
  return true;
}

TEST(RunState, ComesBackBitForBit) {
  const Folder folder;
  const OptimizerOptions rules[] = {
      {},
      {.rule = kernels::Rule::sgd, .learning_rate = 0.1},
      {.rule = kernels::Rule::ivon, .learning_rate = 0.1, .beta2 = 0.9, .objective = {.dataset_size = 20}},
      {.rule = kernels::Rule::lars, .learning_rate = 1.0}};
  for (const OptimizerOptions& rule : rules) {
    Model run(mixed(), rule);
    run.train(4);
    const auto before = run.values();
    const std::filesystem::path file = folder.path / checkpoint_name(run.state.step);
    write_checkpoint(file, take_snapshot(run.state, identity()).contents);
    EXPECT_TRUE(same(run.values(), before));  // taking it changed nothing

    Model fresh(mixed(), rule);
    EXPECT_FALSE(same(fresh.values(), before));
    restore(Checkpoint(file), identity(), fresh.state);
    const auto after = fresh.values();
    ASSERT_EQ(after.size(), before.size());
    for (std::size_t i = 0; i < after.size(); ++i) {
      EXPECT_TRUE(torch::equal(after[i].second, before[i].second)) << after[i].first;
    }
    // And they go on alike: no draw of before is taken for one of the restored values.
    run.train(7);
    fresh.train(7);
    EXPECT_TRUE(same(run.values(), fresh.values()));

    Model predictor(mixed(), rule);
    restore_posterior(Checkpoint(file), predictor.problem.network, predictor.problem.posterior);
    EXPECT_TRUE(torch::equal(predictor.values().front().second, before.front().second));
    std::filesystem::remove(file);
  }
}

TEST(RunState, PredictionsOfOtherWeightsAreRefused) {
  const Folder folder;
  Model run;
  run.train(2);
  CheckpointContents contents = take_snapshot(run.state, identity()).contents;
  std::vector<float> more(2);
  contents.arrays.push_back({"posterior/third.bias/mean", DType::float32, {2}, more.data()});
  write_checkpoint(folder.path / "deeper.h5", contents);
  const Checkpoint deeper(folder.path / "deeper.h5");
  EXPECT_THROW(restore_posterior(deeper, run.problem.network, run.problem.posterior), UserError);
}

TEST(RunState, RecordsTheExamplesAndTheKl) {
  const Folder folder;
  Model run;
  run.train(2);
  write_checkpoint(folder.path / "a.h5", take_snapshot(run.state, identity()).contents);
  const Checkpoint checkpoint(folder.path / "a.h5");
  const ExampleSpec examples = examples_of(checkpoint);
  const ExampleSpec expected = identity().examples;
  EXPECT_EQ(examples.input_shape, expected.input_shape);
  EXPECT_EQ(examples.classes, 3);
  EXPECT_EQ(examples.class_names, expected.class_names);
  EXPECT_TRUE(examples.normalization == expected.normalization);
  EXPECT_EQ(checkpoint.integer("shards"), 2);
  EXPECT_EQ(checkpoint.config(), "lr = 1\n");
  const test::Oracle oracle(run.problem, {}, {});
  const double kl = oracle
                        .terms(run.problem.posterior.mean().to(torch::kFloat64),
                               run.problem.posterior.raw_scale().to(torch::kFloat64))
                        .kl;
  EXPECT_NEAR(std::get<double>(checkpoint.attributes().at("kl")), kl, 40 * 16 * 0x1p-24 * (1.0 + kl / 40.0));
  // Standard deviations are softplus of the raw scales.
  const auto scale = checkpoint.read_doubles("posterior/last.weight/scale");
  const auto raw = checkpoint.read_doubles("posterior/last.weight/raw_scale");
  for (std::size_t i = 0; i < scale.size(); ++i) {
    EXPECT_NEAR(scale[i], std::log1p(std::exp(raw[i])), 8 * 0x1p-24 * scale[i]);
  }
  EXPECT_FALSE(checkpoint.contains("posterior/first.bias/raw_scale"));
}

TEST(RunState, EveryArrayIsNeeded) {
  const Folder folder;
  Model run;
  run.train(2);
  const Snapshot snapshot = take_snapshot(run.state, identity());
  ASSERT_GT(snapshot.contents.arrays.size(), 30U);
  int derived = 0;
  for (std::size_t i = 0; i < snapshot.contents.arrays.size(); ++i) {
    const std::string name = snapshot.contents.arrays[i].name;
    if (name.ends_with("/scale")) {  // what standard deviations come to; raw_scale is what is read
      ++derived;
      continue;
    }
    CheckpointContents contents = snapshot.contents;
    contents.arrays.erase(contents.arrays.begin() + static_cast<std::ptrdiff_t>(i));
    const std::filesystem::path file = folder.path / ("without-" + std::to_string(i) + ".h5");
    write_checkpoint(file, contents);
    Model fresh;
    EXPECT_THAT([&] { restore(Checkpoint(file), identity(), fresh.state); }, ThrowsMessage<Error>(HasSubstr(name)));
    std::filesystem::remove(file);
  }
  EXPECT_EQ(derived, 3);
}

TEST(RunState, OfAnotherNetworkPosteriorOrDatasetIsRefusedByName) {
  const Folder folder;
  const std::filesystem::path file = folder.path / "a.h5";
  const ProblemOptions mlp{.network = "mlp:4,4", .dtype = torch::kFloat32};
  Model run(mlp);
  run.train(2);
  write_checkpoint(file, take_snapshot(run.state, identity()).contents);
  const auto refused = [&](const ProblemOptions& options, const std::string& what, const OptimizerOptions& rule = {}) {
    Model other(options, rule);
    EXPECT_THAT([&] { restore(Checkpoint(file), identity(), other.state); }, ThrowsMessage<UserError>(HasSubstr(what)))
        << options.network;
  };
  ProblemOptions wider = mlp, deeper = mlp, shallower = mlp, point = mlp, precise = mlp;
  wider.network = "mlp:4,5";
  deeper.network = "mlp:4,4,4";
  shallower.network = "mlp:4";
  shallower.likelihood = CategoricalLikelihood{4};  // fc2 has the shape of the run's
  point.families = {"point"};
  precise.dtype = torch::kFloat64;
  refused(wider, "posterior/fc2.weight/mean");
  refused(deeper, "fc3.weight");
  refused(shallower, "fc3");
  refused(point, "scale");
  refused(precise, "fc1.weight");
  refused(mlp, "momentum", {.rule = kernels::Rule::sgd, .clip_norm = {}});
  refused(mixed(), "first.weight");

  Model again(mlp);
  RunIdentity data = identity();
  data.dataset_size = 21;
  EXPECT_THAT([&] { restore(Checkpoint(file), data, again.state); }, ThrowsMessage<UserError>(HasSubstr("21")));
  data = identity();
  data.dataset_digest = "4567";
  EXPECT_THAT([&] { restore(Checkpoint(file), data, again.state); }, ThrowsMessage<UserError>(HasSubstr("content")));
  EXPECT_NO_THROW(restore(Checkpoint(file), identity(), again.state));
}

TEST(RunState, OfAScriptedNetworkIsOfThatFileAlone) {
  const Folder folder;
  const std::string script = folder.path / "network.pt";
  const auto save = [&](const std::string& nonlinearity) {
    torch::jit::Module network("__torch__.Network");
    network.register_parameter("head", test::waves({3, 3}, 1.7, torch::kFloat32).requires_grad_(), false);
    network.register_attribute("training", c10::BoolType::get(), true);
    network.define("def forward(self, x):\n    return torch.matmul(torch." + nonlinearity +
                   "(x), torch.t(self.head))\n");
    network.save(script);
  };
  const ProblemOptions scripted{.network = "torchscript:" + script, .dtype = torch::kFloat32};
  save("relu");
  Model run(scripted);
  run.train(2);
  write_checkpoint(folder.path / "a.h5", take_snapshot(run.state, identity()).contents);
  Model again(scripted);
  EXPECT_NO_THROW(restore(Checkpoint(folder.path / "a.h5"), identity(), again.state));
  save("tanh");  // the same tensors
  Model other(scripted);
  const auto refuses = ThrowsMessage<UserError>(HasSubstr("file of other content"));
  EXPECT_THAT([&] { restore(Checkpoint(folder.path / "a.h5"), identity(), other.state); }, refuses);
  EXPECT_THAT(
      [&] { restore_posterior(Checkpoint(folder.path / "a.h5"), other.problem.network, other.problem.posterior); },
      refuses);
}

TEST(RunState, IntegersOfEveryKindComeBack) {
  const Folder folder;
  const std::string script = folder.path / "network.pt";
  torch::jit::Module network("__torch__.Network");
  network.register_parameter("head", test::waves({3, 3}, 1.7, torch::kFloat32).requires_grad_(), false);
  network.register_buffer("used", torch::tensor({true, false, true}));
  network.register_buffer("calls", torch::tensor({7, -300'000}, torch::kInt32));
  network.register_buffer("level", torch::tensor({200}, torch::kUInt8));
  network.register_attribute("training", c10::BoolType::get(), true);
  network.define("def forward(self, x):\n    return torch.matmul(x * self.used, torch.t(self.head))\n");
  network.save(script);
  const ProblemOptions scripted{.network = "torchscript:" + script, .dtype = torch::kFloat32};
  Model run(scripted);
  ASSERT_EQ(run.problem.network.integer_buffers().size(), 3U);
  run.train(2);
  write_checkpoint(folder.path / "a.h5", take_snapshot(run.state, identity()).contents);
  Model again(scripted);
  for (auto [name, buffer] : again.problem.network.integer_buffers()) buffer.zero_();
  EXPECT_FALSE(same(again.values(), run.values()));
  restore(Checkpoint(folder.path / "a.h5"), identity(), again.state);
  EXPECT_TRUE(same(again.values(), run.values()));
}

}  // namespace
}  // namespace credence
