// train() over 1, 2 and 4 ranks, stopped and resumed, leaves the bits of one rank that never stopped, also where the
// ranks share the update.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "credence/training/run_state.h"
#include "credence/training/train.h"
#include "trainer.h"

namespace credence {
namespace {

using namespace test;

/// Ten features, three classes; one example is not a number.
class Poisoned final : public DataSource {
 public:
  explicit Poisoned(std::int64_t bad) : bad_(bad) {
    size_ = 80;
    spec_.input_shape = {10};
    spec_.classes = 3;
    digest_ = "made up";
  }

 private:
  void fill(std::span<const std::int64_t> examples, Batch& batch) const override {
    for (std::size_t i = 0; i < examples.size(); ++i) {
      for (std::size_t k = 0; k < 10; ++k) {
        const double angle = static_cast<double>(examples[i]) * 10.0 + static_cast<double>(k);
        batch.inputs[10 * i + k] = examples[i] == bad_ ? std::nanf("") : static_cast<float>(std::sin(angle * angle));
      }
      batch.labels[i] = examples[i] % 3;
    }
  }
  std::int64_t bad_;
};

/// A folder of rank 0's that goes with the test.
struct Folder {
  explicit Folder(Communicator& world) : communicator(world) {
    if (world.rank() == 0) {
      path = std::filesystem::temp_directory_path() / ("credence-gradient-laws-" + std::to_string(getpid()));
      std::filesystem::create_directories(path);
    }
  }
  ~Folder() {
    if (!path.empty()) std::filesystem::remove_all(path);
  }
  Communicator& communicator;
  std::filesystem::path path;
};

struct TrainingCase {
  ProblemOptions problem{.network = "normalized", .inputs = 10, .dtype = torch::kFloat32};
  OptimizerOptions rule{.learning_rate = 0.05};
  Estimator::Options estimator{.seed = 3, .shards = kShards};
};

struct TrainingRun {
  TrainingRun(Communicator& world, const DataSource& data, const TrainingCase& chosen = {}, std::int64_t first_step = 0)
      : communicator(world),
        source(data),
        trainer(world, chosen.estimator, chosen.problem, chosen.rule),
        loader(data, plan,
               {.first_step = first_step,
                .first_shard = trainer.estimator.first_shard(),
                .shard_count = trainer.estimator.local_shards()}),
        state{.network = trainer.problem.network,
              .posterior = trainer.problem.posterior,
              .optimizer = trainer.optimizer,
              .history = {}} {
    identity.seed = 3;
    identity.shards = kShards;
    identity.dataset_size = data.size();
    identity.dataset_digest = data.digest();
    identity.examples = data.spec();
  }

  Outcome train(const std::filesystem::path& folder, std::int64_t stop_after = 0, std::int64_t checkpoint_every = 0) {
    return credence::train({.source = source,
                            .likelihood = trainer.problem.likelihood,
                            .plan = plan,
                            .loader = loader,
                            .estimator = trainer.estimator,
                            .communicator = communicator},
                           {.directory = folder,
                            .total_steps = 6,
                            .checkpoint_every = checkpoint_every,
                            .stop_after = stop_after,
                            .objective = {.dataset_size = source.size()},
                            .schedule = CosineSchedule{}},
                           identity, state, [](const StepReport&) {});
  }

  Communicator& communicator;
  const DataSource& source;
  SamplingPlan plan{3, 80, 16, kShards};
  Trainer trainer;
  Loader loader;
  RunIdentity identity;
  RunState state;
};

TEST(TrainingOverRanks, NamesTheSameStepAndShardWhereALossIsNotFinite) {
  const auto world = over_mpi();
  const SamplingPlan plan(3, 80, 16, kShards);
  const Poisoned source(plan.select(2, 2).examples[1]);  // the third step, third shard: one rank's
  const Folder folder(*world);
  TrainingRun run(*world, source);
  std::string message;
  try {
    run.train(folder.path);
  } catch (const NumericalError& error) {
    message = error.what();
  }
  EXPECT_THAT(message, ::testing::AllOf(::testing::HasSubstr("step 3"), ::testing::HasSubstr("(shard 2)"),
                                        ::testing::HasSubstr("first.weight")));
  for (const std::string& other : world->gather_texts(message)) EXPECT_EQ(other, message);
  if (world->rank() == 0) {
    EXPECT_TRUE(std::filesystem::is_empty(folder.path));  // nothing of it is written
  }
}

/// Everything that a run leaves.
std::vector<torch::Tensor> bits_of(const TrainingRun& run) {
  std::vector<torch::Tensor> list = {run.state.posterior.mean(), run.state.network.buffer_arena()};
  if (run.state.posterior.has_gaussian()) list.push_back(run.state.posterior.raw_scale());
  for (const auto& [name, buffer] : run.state.network.integer_buffers()) list.push_back(buffer);
  for (const auto& [name, arena] : run.state.optimizer.state()) list.push_back(arena);
  for (const char* column :
       {"history/step", "history/epoch", "history/elbo", "history/objective", "history/kl",
        "history/expected_log_likelihood", "history/learning_rate", "history/gradient_norm", "history/accuracy"}) {
    list.push_back(torch::tensor(run.state.history.column(column), torch::kFloat64).nan_to_num(-1.0));
  }
  return list;
}

/// Stopped after three steps and resumed by all ranks, against one rank that runs all shards and never stops.
void expect_bits_of_one_rank(const TrainingCase& chosen) {
  const auto world = over_mpi();
  const auto alone = make_self_communicator();
  const Poisoned source(-1);
  const Folder folder(*world);

  TrainingRun stopped(*world, source, chosen);
  EXPECT_EQ(stopped.train(folder.path, 3, 2), Outcome::stopped);
  EXPECT_EQ(stopped.state.step, 3);

  // Rank 0 reads, the others hear of it.
  TrainingRun resumed(*world, source, chosen, 3);
  if (world->rank() == 0) restore(Checkpoint(folder.path / checkpoint_name(3)), resumed.identity, resumed.state);
  broadcast_state(resumed.state, *world);
  EXPECT_EQ(resumed.state.step, 3);
  EXPECT_EQ(resumed.train(folder.path), Outcome::finished);

  // Every rank for itself.
  const std::filesystem::path mine =
      std::filesystem::temp_directory_path() / ("credence-gradient-laws-alone-" + std::to_string(getpid()));
  std::filesystem::create_directories(mine);
  TrainingRun whole(*alone, source, chosen);
  EXPECT_EQ(whole.train(mine), Outcome::finished);
  std::filesystem::remove_all(mine);

  const auto expected = bits_of(whole), actual = bits_of(resumed);
  ASSERT_EQ(expected.size(), actual.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(torch::equal(expected[i], actual[i])) << i;
  EXPECT_EQ(whole.state.history.size(), 6);
}

TEST(TrainingOverRanks, StopsAndGoesOnWithTheBitsOfARunThatNeverStopped) {
  expect_bits_of_one_rank({});
}

/// Its middle layer has 256 * 256 weights, eight stretches: two a rank on four.
TrainingCase shared_update() {
  TrainingCase chosen;
  chosen.problem.network = "mlp:256,256";
  chosen.estimator.bucket_bytes = std::size_t{1} << 16;
  chosen.estimator.share_update = true;
  return chosen;
}

TEST(SharedUpdate, HasTheBitsOfOneRankUnderEveryOptimizer) {
  using enum kernels::Rule;
  for (const kernels::Rule rule : {adam, sgd, ivon, lars}) {
    SCOPED_TRACE(static_cast<int>(rule));
    TrainingCase chosen = shared_update();
    chosen.rule = {.rule = rule, .learning_rate = 0.02, .beta2 = 0.99, .objective = {.dataset_size = 80}};
    if (rule == adam || rule == sgd) chosen.rule.clip_norm = 0.5;
    expect_bits_of_one_rank(chosen);
  }
}

TEST(SharedUpdate, HasTheBitsOfOneRankForPointEstimatesAndManyDraws) {
  TrainingCase chosen = shared_update();
  chosen.problem.families = {"point"};
  chosen.estimator.noise = NoiseSharing::shard;
  expect_bits_of_one_rank(chosen);
  chosen = shared_update();
  chosen.estimator.noise = NoiseSharing::shard;
  expect_bits_of_one_rank(chosen);
}

TEST(SharedUpdate, IsWhereOneDrawServesAStepAndTheKernelsMakeIt) {
  const auto world = over_mpi();
  const auto share_of = [&](const TrainingCase& chosen, const std::string& estimator = "reparam") {
    const Trainer trainer(*world, chosen.estimator, chosen.problem, chosen.rule, estimator);
    std::int64_t updated = 0;
    for (const auto& segment : trainer.estimator.share().segments()) updated += segment.count;
    return std::pair(trainer.estimator.share().dealt(), updated);
  };
  const std::int64_t all = 10 * 256 + 256 + 256 * 256 + 256 + 256 * 3 + 3;
  const std::int64_t own = all - 256 * 256 + 256 * 256 / world->size();
  const bool several = world->size() > 1;
  EXPECT_EQ(share_of(shared_update()), std::pair(several, several ? own : 0));
  TrainingCase chosen = shared_update();
  chosen.estimator.share_update = false;
  EXPECT_FALSE(share_of(chosen).first);
  chosen = shared_update();
  chosen.estimator.samples = 2;
  EXPECT_FALSE(share_of(chosen).first);
  chosen = shared_update();
  chosen.problem.families = {"low-rank:2"};
  EXPECT_FALSE(share_of(chosen).first);
  chosen = shared_update();
  chosen.problem.priors = {"laplace:1"};
  EXPECT_FALSE(share_of(chosen).first);
  EXPECT_FALSE(share_of(shared_update(), "flipout").first);
}

TEST(SharedUpdate, SendsTheBytesOfAnAllReduceAndSomeScalars) {
  const auto world = over_mpi();
  const Poisoned source(-1);
  const auto sent = [&](bool shared) {
    TrainingCase chosen = shared_update();
    chosen.estimator.share_update = shared;
    TrainingRun run(*world, source, chosen);
    const Folder folder(*world);
    const std::int64_t before = world->traffic().bytes_sent;
    run.train(folder.path, 1);
    return world->traffic().bytes_sent - before;
  };
  const std::int64_t replicated = sent(false), shared = sent(true);
  // One step, then what the last save needs: means, raw scales and four moments.
  const int size = world->size();
  const std::int64_t head = 4 * 256 * 256 / size * (size - 1);
  const std::int64_t sums = 2 * 12 * static_cast<std::int64_t>(sizeof(kernels::SegmentSums)) * (size - 1);
  EXPECT_GE(shared, replicated + 6 * head);
  EXPECT_LE(shared, replicated + 6 * head + sums);
}

}  // namespace
}  // namespace credence
