// One step over 1, 2 and 4 ranks is the step of one rank that runs all shards, bit for bit; what is sent is counted;
// and none of it holds where the all-reduce does nothing.
#include <gmock/gmock.h>

#include <bit>

#include "credence/base/errors.h"
#include "trainer.h"

namespace credence {
namespace {

using namespace test;

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

}  // namespace
}  // namespace credence
