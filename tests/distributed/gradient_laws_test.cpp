// One step over 1, 2 and 4 ranks is the step of one rank that runs all shards, bit for bit; what is sent is counted;
// and none of it holds where the all-reduce does nothing.
#include <gmock/gmock.h>
#include <unistd.h>

#include <bit>
#include <filesystem>

#include "credence/base/errors.h"
#include "credence/data/memory_source.h"
#include "credence/training/run_state.h"
#include "credence/training/train.h"
#include "support/mpi_test.h"
#include "unit/estimators/cases.h"

namespace credence {
namespace {

using test::Problem;
using test::ProblemOptions;

constexpr int kShards = 4;

std::unique_ptr<Communicator> over_mpi() {
  MpiOptions options;
  options.timeout_seconds = 60.0;
  return make_mpi_communicator(credence::testing::mpi_session(), options);
}

ProblemOptions normalized() {
  return {.network = "normalized", .inputs = 33, .dtype = torch::kFloat32};
}

/// A network, its posterior and optimizer, and the estimator that trains them over a communicator.
struct Trainer {
  Trainer(Communicator& over, const Estimator::Options& options, const ProblemOptions& chosen = normalized(),
          const OptimizerOptions& rule = {.learning_rate = 0.05}, const std::string& name = "reparam")
      : communicator(over),
        problem(chosen),
        optimizer(problem.posterior, rule),
        owned(test::make_estimator(name, problem.parts(over), options)),
        estimator(*owned) {}

  /// `flags` beside the losses; the update follows.
  void step(std::int64_t number, std::span<const double> flags = {}) {
    const auto examples = test::examples_of(problem, kShards, 5, 0.9 + 0.1 * static_cast<double>(number));
    const auto next = test::source_of(examples, estimator.first_shard());
    shards_run = 0;
    totals = estimator.run(
        number, [&] { return ++shards_run, next(); }, flags);
    gradient = estimator.gradient();
    sums = {};
    for (const torch::Tensor& slot : gradient.slots) sums.push_back(slot.flatten().clone());
    if (gradient.scaled.defined()) {
      for (const auto& segment : problem.posterior.segments()) {
        if (segment.gaussian) sums.push_back(gradient.scaled.narrow(0, segment.offset, segment.count).clone());
      }
    }
    optimizer.step(gradient, {.number = number,
                              .gradient_multiplier = estimator.gradient_multiplier(),
                              .weights = {},
                              .dataset_size = 100,
                              .next_draw = estimator.first_draw(number + 1)});
  }

  /// Everything of the last step and what it left behind.
  std::vector<torch::Tensor> bits() const {
    std::vector<torch::Tensor> list = sums;
    const auto add = [&](const torch::Tensor& arena) {
      for (const auto& segment : problem.posterior.segments())
        list.push_back(arena.narrow(0, segment.offset, segment.count));
    };
    add(problem.posterior.mean());
    if (problem.posterior.has_gaussian()) add(problem.posterior.raw_scale());
    for (const auto& [name, arena] : optimizer.state()) add(arena);
    for (const auto& [name, buffer] : problem.network.float_buffers()) list.push_back(buffer);
    for (const auto& [name, buffer] : problem.network.integer_buffers()) list.push_back(buffer);
    list.push_back(torch::tensor({totals.mean_nll, totals.minimised_nll, totals.accuracy}, torch::kFloat64));
    return list;
  }

  Communicator& communicator;
  Problem problem;
  Optimizer optimizer;
  std::unique_ptr<Estimator> owned;
  Estimator& estimator;
  StepTotals totals;
  GradientSum gradient;
  std::vector<torch::Tensor> sums;
  int shards_run = 0;
};

/// How many of two trainers' tensors differ in a bit.
int differences(const Trainer& a, const Trainer& b) {
  const auto left = a.bits(), right = b.bits();
  if (left.size() != right.size()) return -1;
  int count = 0;
  for (std::size_t i = 0; i < left.size(); ++i) count += torch::equal(left[i], right[i]) ? 0 : 1;
  return count;
}

struct Choice {
  NoiseSharing noise;
  int samples;
  std::string estimator = "reparam";
};
const Choice kChoices[] = {{NoiseSharing::shared, 1},
                           {NoiseSharing::shared, 2},
                           {NoiseSharing::shard, 1},
                           {NoiseSharing::shard, 2},
                           {NoiseSharing::antithetic, 1},
                           {NoiseSharing::antithetic, 2},
                           {NoiseSharing::shared, 1, "flipout"},
                           {NoiseSharing::shard, 2, "flipout"},
                           {NoiseSharing::shared, 2, "local-reparam"},
                           {NoiseSharing::shared, 2, "score"},
                           {NoiseSharing::antithetic, 3, "score"}};

/// The score function has no gradient for point estimates, as norm parameters are by default.
ProblemOptions normalized_for(const Choice& choice) {
  ProblemOptions options = normalized();
  if (choice.estimator == "score") options.families = {"mean-field", "norm=mean-field"};
  return options;
}

Estimator::Options options_of(const Choice& choice) {
  return {.seed = 3, .shards = kShards, .samples = choice.samples, .noise = choice.noise, .bucket_bytes = 300};
}

TEST(GradientsOverRanks, AreTheBitsOfOneRank) {
  const auto together = over_mpi();
  const auto alone = make_self_communicator();
  for (const Choice& choice : kChoices) {
    Trainer expected(*alone, options_of(choice), normalized_for(choice), {.learning_rate = 0.05}, choice.estimator);
    Trainer actual(*together, options_of(choice), normalized_for(choice), {.learning_rate = 0.05}, choice.estimator);
    for (int step = 0; step < 5; ++step) {
      expected.step(step);
      actual.step(step);
      EXPECT_EQ(differences(expected, actual), 0) << choice.estimator << ", noise " << static_cast<int>(choice.noise)
                                                  << ", " << choice.samples << " samples, step " << step;
      EXPECT_EQ(expected.shards_run, kShards);
      EXPECT_EQ(actual.shards_run, kShards / together->size());
      EXPECT_EQ(actual.estimator.first_shard(), together->rank() * kShards / together->size());
    }
  }
}

TEST(GradientsOverRanks, AreTheBitsOfOneRankUnderEveryOptimizer) {
  const auto together = over_mpi();
  const auto alone = make_self_communicator();
  using enum kernels::Rule;
  for (const kernels::Rule rule : {adam, sgd, ivon, lars}) {
    const OptimizerOptions chosen{
        .rule = rule, .learning_rate = 0.05, .beta2 = 0.99, .objective = {.dataset_size = 100}};
    for (const Choice& choice : {Choice{NoiseSharing::shared, 1}, Choice{NoiseSharing::shard, 2}}) {
      Trainer expected(*alone, options_of(choice), normalized(), chosen);
      Trainer actual(*together, options_of(choice), normalized(), chosen);
      for (int step = 0; step < 4; ++step) {
        const torch::Tensor before = expected.problem.posterior.raw_scale().clone();
        expected.step(step);
        actual.step(step);
        EXPECT_EQ(differences(expected, actual), 0) << "rule " << static_cast<int>(rule) << ", step " << step;
        EXPECT_FALSE(torch::equal(before, expected.problem.posterior.raw_scale()));
      }
    }
  }
}

TEST(GradientsOverRanks, DifferWhereTheAllReduceDoesNothing) {
  const auto together = over_mpi();
  const auto alone = make_self_communicator();
  // Plays this rank; what other ranks would contribute is missing.
  const auto nothing = make_rehearsal_communicator(together->rank(), together->size());
  for (const Choice& choice : kChoices) {
    Trainer expected(*alone, options_of(choice), normalized_for(choice), {.learning_rate = 0.05}, choice.estimator);
    Trainer actual(*nothing, options_of(choice), normalized_for(choice), {.learning_rate = 0.05}, choice.estimator);
    expected.step(0);
    actual.step(0);
    if (together->size() == 1) {
      EXPECT_EQ(differences(expected, actual), 0);
    } else {
      // Every sum (but not the posterior's points that Adam moves by its rate alone), the buffers and the totals.
      EXPECT_GT(differences(expected, actual), static_cast<int>(expected.sums.size()));
      int sums_that_differ = 0;
      for (std::size_t i = 0; i < expected.sums.size(); ++i) {
        sums_that_differ += torch::equal(expected.sums[i], actual.sums[i]) ? 0 : 1;
      }
      EXPECT_EQ(sums_that_differ, static_cast<int>(expected.sums.size()));
    }
  }
}

TEST(GradientsOverRanks, CrossOnceForOneDrawTwiceForManyAndNotAtAllForTheScoreFunction) {
  const auto world = over_mpi();
  const int size = world->size();
  for (const bool buffers : {false, true}) {
    for (const Choice& choice : kChoices) {
      ProblemOptions chosen = normalized_for(choice);
      if (!buffers) {
        chosen.network = choice.samples > 2 || choice.samples == 1 ? "mlp:64,64" : "mlp:16";
        chosen.families = {"mean-field"};
      }
      // Large tensors travel alone, from where backward put them: those of mlp:64,64 have no padding that would stay.
      Estimator::Options options = options_of(choice);
      options.bucket_bytes = buffers ? std::size_t{4} << 20 : 4 * 64 * 64;
      Trainer trainer(*world, options, chosen, {.learning_rate = 0.05}, choice.estimator);
      const double flags[] = {0.0, 0.0};
      for (int step = 0; step < 2; ++step) {
        const std::int64_t before = world->traffic().bytes_sent;
        trainer.step(step, flags);
        const std::int64_t sent = world->traffic().bytes_sent - before;
        // Arenas are cut into chunks of 64 elements at least: nothing is lost in rounding.
        const auto ring = [&](std::int64_t bytes) { return 2 * (size - 1) * bytes / size; };
        const std::int64_t arena = 4 * trainer.problem.network.layout().elements;
        const bool one_draw =
            choice.estimator == "reparam" && choice.noise == NoiseSharing::shared && choice.samples == 1;
        // Of score: each rank's losses go to the others, one a draw, whatever the number of weights.
        const std::int64_t gradients = choice.estimator == "score" ? (size - 1) * 8 * kShards * choice.samples / size
                                                                   : (one_draw ? 1 : 2) * ring(arena);
        const std::int64_t scalars = 8 * (4 + 2 + (buffers ? 1 : 0));  // losses, correct, not finite; flags; a counter
        EXPECT_EQ(sent, gradients + (size - 1) * scalars + ring(4 * trainer.problem.network.buffer_arena().numel()))
            << choice.estimator << " " << static_cast<int>(choice.noise) << " " << choice.samples << " " << buffers;
      }
    }
  }
}

/// A step's mean gradients, buffers and mean NLL, of 20 examples cut into shards.
std::vector<torch::Tensor> step_of(Communicator& over, const std::string& network, const std::string& estimator) {
  Problem problem({.network = network, .inputs = 32});
  const int shards = over.size();
  const auto owned = test::make_estimator(estimator, problem.parts(over), {.seed = 3, .shards = shards});
  const auto examples = test::examples_of(problem, shards, 20 / shards);
  const StepTotals totals = owned->run(0, test::source_of(examples, owned->first_shard()), {});
  std::vector<torch::Tensor> list;
  for (const torch::Tensor& sum : owned->gradient().slots) list.push_back(sum.flatten() * owned->gradient_multiplier());
  for (const auto& [name, buffer] : problem.network.float_buffers()) list.push_back(buffer.clone());
  list.push_back(torch::tensor({totals.mean_nll}, torch::kFloat64));
  return list;
}

TEST(SynchronizedNorms, AreThoseOfAllShardsAsOneBatch) {
  const auto together = over_mpi();
  const auto alone = make_self_communicator();
  const auto largest_difference = [](const auto& a, const auto& b) {
    double largest = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i)
      largest = std::max(largest, (a[i] - b[i]).abs().max().template item<double>());
    return largest;
  };
  const auto expected = step_of(*alone, "convolved-batch", "reparam");
  const auto actual = step_of(*together, "convolved-sync", "reparam");
  ASSERT_EQ(expected.size(), actual.size());
  EXPECT_LT(largest_difference(expected, actual), 1e-13);
  EXPECT_GT(expected.front().abs().max().item<double>(), 1e-4);
  if (together->size() == 1) return;
  EXPECT_GT(largest_difference(expected, step_of(*together, "convolved-batch", "reparam")), 1e-3);
  // Every rank has the same bits.
  std::string mine;
  for (const torch::Tensor& tensor : actual) {
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      mine += fmt::format("{:x} ", std::bit_cast<std::uint64_t>(tensor.flatten()[i].item<double>()));
  }
  for (const std::string& other : together->gather_texts(mine)) EXPECT_EQ(other, mine);
}

TEST(SynchronizedNorms, NeedAShardARank) {
  const auto together = over_mpi();
  Problem problem({.network = "convolved-sync", .inputs = 32});
  EXPECT_THAT([&] { test::make_estimator("reparam", problem.parts(*together), {.shards = 2 * together->size()}); },
              ::testing::ThrowsMessage<UserError>(::testing::HasSubstr("or take --norm batch")));
}

TEST(GradientsOverRanks, TotalsAndFlagsAgreeOnAllRanks) {
  const auto world = over_mpi();
  Trainer trainer(*world, options_of({NoiseSharing::shard, 1}));
  const double flags[] = {world->rank() == world->size() - 1 ? 1.0 : 0.0, 1.0};
  trainer.step(0, flags);
  EXPECT_THAT(trainer.totals.flags, ::testing::ElementsAre(1.0, world->size()));
  EXPECT_TRUE(trainer.totals.finite);
  const auto bits = [](double value) { return fmt::format("{:x} ", std::bit_cast<std::uint64_t>(value)); };
  const std::string mine = bits(trainer.totals.mean_nll) + bits(trainer.totals.accuracy);
  for (const std::string& other : world->gather_texts(mine)) EXPECT_EQ(other, mine);
}

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
