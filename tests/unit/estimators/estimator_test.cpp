// What the reparameterised estimator draws, sums and leaves behind.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "unit/estimators/cases.h"

namespace credence {
namespace {

using test::descend;
using test::Oracle;
using test::Problem;
using test::waves;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const Objective kObjective{.dataset_size = 20};

std::vector<torch::Tensor> copy_of(const GradientSum& gradient) {
  std::vector<torch::Tensor> slots;
  for (const torch::Tensor& slot : gradient.slots) slots.push_back(slot.flatten().clone());
  return slots;
}

bool same_bits(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!torch::equal(a[i], b[i])) return false;
  }
  return true;
}

TEST(Shards, ChangeNeitherKlNorTheGradientUnderSharedNoise) {
  std::vector<torch::Tensor> gradients;
  double kl = 0.0, nll = 0.0;
  for (const int samples : {1, 2}) {
    for (const int shards : {1, 2, 4, 8}) {
      Problem problem;
      const auto communicator = make_self_communicator();
      ReparameterizedEstimator estimator(problem.parts(*communicator),
                                         {.seed = 5, .shards = shards, .samples = samples});
      const auto examples = test::examples_of(problem, shards, 16 / shards);
      const StepTotals totals = estimator.run(0, test::source_of(examples), {});
      const torch::Tensor before = problem.posterior.mean().clone();
      const auto update =
          descend(problem.posterior, estimator.gradient(), kObjective, 0, estimator.gradient_multiplier());
      const ObjectiveValue value = evaluate_objective(kObjective, kObjective.weights(0), totals.mean_nll,
                                                      problem.posterior.plan(), {update.sums, {}});
      if (kl == 0.0) kl = value.kl;
      EXPECT_EQ(value.kl, kl) << shards << " shards, " << samples << " samples";
      EXPECT_GT(kl, 1.0);
      if (samples > 1) continue;
      gradients.push_back(before - problem.posterior.mean());
      if (shards == 1) nll = totals.mean_nll;
      // The mean of the shards' means is the batch's mean: 16 terms of order one in double.
      EXPECT_NEAR(totals.mean_nll, nll, 1e-14);
      EXPECT_LT((gradients.back() - gradients.front()).abs().max().item<double>(), 1e-14) << shards;
    }
  }
}

TEST(Sums, OneSumEqualsTwo) {
  Problem one, two;
  const auto communicator = make_self_communicator();
  const auto examples = test::examples_of(one, 4, 4);
  ReparameterizedEstimator estimator(one.parts(*communicator), {.seed = 5, .shards = 4});
  estimator.run(2, test::source_of(examples), {});
  ASSERT_FALSE(estimator.gradient().scaled.defined());

  // eps * dL/dw formed here, from gradients that autograd computes at weights drawn here.
  const Oracle oracle(two, {.seed = 5, .shards = 4}, kObjective);
  torch::Tensor eps = torch::zeros_like(two.posterior.mean());
  for (std::int64_t i = 0; i < eps.numel(); ++i) eps[i] = oracle.noise(2, 0, 0, i);
  const torch::Tensor weights = two.posterior.mean() + torch::softplus(two.posterior.raw_scale()) * eps;
  two.network.bind(weights);
  torch::Tensor sum = torch::zeros_like(weights), scaled = torch::zeros_like(weights);
  two.network.set_gradient_sink([&](int slot, const torch::Tensor& gradient) {
    const auto& segment = two.posterior.segments()[static_cast<std::size_t>(slot)];
    sum.narrow(0, segment.offset, segment.count).add_(gradient.flatten());
    scaled.narrow(0, segment.offset, segment.count)
        .add_(gradient.flatten() * eps.narrow(0, segment.offset, segment.count));
  });
  for (const Examples& shard : examples) {
    torch::cross_entropy_loss(two.network.forward(shard.inputs), shard.targets).backward();
  }
  GradientSum gradient;
  for (const auto& segment : two.posterior.segments()) {
    gradient.slots.push_back(sum.narrow(0, segment.offset, segment.count));
  }
  gradient.scaled = scaled;

  descend(one.posterior, estimator.gradient(), kObjective, 2, 0.25);
  descend(two.posterior, gradient, kObjective, 2, 0.25);
  EXPECT_LT((one.posterior.mean() - two.posterior.mean()).abs().max().item<double>(), 1e-14);
  EXPECT_LT((one.posterior.raw_scale() - two.posterior.raw_scale()).abs().max().item<double>(), 1e-14);
  const Problem untouched;
  EXPECT_GT((one.posterior.raw_scale() - untouched.posterior.raw_scale()).abs().max().item<double>(), 1e-3);
}

/// Numbers whose sum depends on the order of the terms.
torch::Tensor rough(const std::vector<std::int64_t>& shape, int which) {
  torch::Tensor values = waves(shape, 0.7 + which, torch::kFloat64);
  values = values * torch::exp2(torch::round(12.0 * waves(shape, 1.9 + which, torch::kFloat64)));
  return values.to(torch::kFloat32);
}

/// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), from the definition; an odd one out is added last.
torch::Tensor tree(const std::vector<torch::Tensor>& terms, std::size_t first, std::size_t last) {
  if (last - first == 1) return terms[first];
  std::size_t half = 1;
  while (2 * half < last - first) half *= 2;
  return tree(terms, first, first + half) + tree(terms, first + half, last);
}

TEST(Sums, AreInTheDocumentedTreeOrder) {
  for (const int samples : {1, 2}) {
    for (const int shards : {1, 2, 3, 4, 8, 16}) {
      Problem problem({.dtype = torch::kFloat32});
      GradientSums sums(problem.posterior, {.local_shards = shards, .samples = samples, .two_sums = true});
      const auto& slots = problem.network.layout().slots;
      for (int step = 0; step < 2; ++step) {  // nothing of a step is left in the next
        std::vector<std::vector<torch::Tensor>> terms(slots.size()), scaled_terms(slots.size());
        sums.begin_step();
        for (int shard = 0; shard < shards; ++shard) {
          for (int sample = 0; sample < samples; ++sample) {
            const kernels::NoiseStream noise{.seed = 1,
                                             .step = static_cast<std::uint32_t>(step),
                                             .shard = static_cast<std::uint32_t>(shard),
                                             .sample = static_cast<std::uint32_t>(sample)};
            sums.begin_pass(noise);
            for (std::size_t slot = slots.size(); slot-- > 0;) {
              const torch::Tensor gradient = rough(slots[slot].shape, 31 * step + 7 * shard + sample);
              // eps * gradient is added by a fused multiply-add.
              torch::Tensor scaled =
                  sample == 0 ? torch::zeros({slots[slot].count}) : scaled_terms[slot].back().clone();
              for (std::int64_t i = 0; i < slots[slot].count; ++i) {
                float& sum = scaled.data_ptr<float>()[i];
                const float eps = kernels::standard_normal(noise, slots[slot].offset + i);
                sum = std::fma(eps, gradient.data_ptr<float>()[i], sum);
              }
              if (sample == 0) {
                terms[slot].push_back(gradient.flatten());
                scaled_terms[slot].push_back(scaled);
              } else {
                terms[slot].back() = terms[slot].back() + gradient.flatten();
                scaled_terms[slot].back() = scaled;
              }
              const bool last = shard == shards - 1 && sample == samples - 1;
              EXPECT_EQ(sums.take(static_cast<int>(slot), gradient), last);
            }
            EXPECT_EQ(sums.end_pass(), -1);
          }
        }
        const GradientSum result = sums.result();
        bool order_matters = false;
        for (std::size_t slot = 0; slot < slots.size(); ++slot) {
          const auto& segment = problem.posterior.segments()[slot];
          const auto count = static_cast<std::size_t>(shards);
          EXPECT_TRUE(torch::equal(result.slots[slot], tree(terms[slot], 0, count)))
              << shards << " " << slots[slot].name;
          const torch::Tensor scaled = result.scaled.narrow(0, segment.offset, segment.count);
          EXPECT_TRUE(torch::equal(scaled, tree(scaled_terms[slot], 0, count))) << shards << " " << slots[slot].name;
          torch::Tensor in_sequence = terms[slot].front().clone();
          for (std::size_t i = 1; i < count; ++i) in_sequence = in_sequence + terms[slot][i];
          order_matters = order_matters || !torch::equal(in_sequence, result.slots[slot]);
        }
        EXPECT_EQ(order_matters, shards >= 4);
      }
    }
  }
}

TEST(Sums, NameTheFirstSlotWithoutAGradient) {
  Problem problem;
  GradientSums sums(problem.posterior, {});
  sums.begin_step();
  sums.begin_pass({});
  const auto& slots = problem.network.layout().slots;
  for (const int slot : {0, 3})
    sums.take(slot, torch::ones(slots[static_cast<std::size_t>(slot)].shape, torch::kFloat64));
  EXPECT_EQ(sums.end_pass(), 1);
}

/// Backward gives `left`, `right` and `plain` the same gradient, the first two as views of one memory, and `alone` one
/// of its own.
struct SharedGradientImpl : torch::nn::Module {
  SharedGradientImpl() {
    const auto values = [](std::vector<std::int64_t> shape) { return torch::rand(shape, torch::kFloat64); };
    left = register_parameter("left", values({9}));
    right = register_parameter("right", values({9}));
    plain = register_parameter("plain", values({3, 3}));
    alone = register_parameter("alone", values({3, 3}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return x.matmul(alone).tanh().matmul(left.view({3, 3}) + right.view({3, 3}) + plain);
  }
  torch::Tensor left, right, plain, alone;
};
TORCH_MODULE(SharedGradient);

TEST(Sums, TakeMemoryThatIsNoOtherGradientsAndCopyTheRest) {
  Network network(torch::nn::AnyModule(SharedGradient()), torch::kFloat64);
  Posterior posterior(plan_posterior(network.layout(), parse_families({"point"}), parse_priors({"normal:1"}), 1),
                      network.values(), 0.1, 1);
  network.bind(posterior.network_weights());
  GradientSums sums(posterior, {.in_place = std::vector<bool>(4, true)});
  std::vector<torch::Tensor> expected(4);
  std::vector<bool> taken(4);
  network.set_gradient_sink([&](int slot, const torch::Tensor& gradient) {
    const auto index = static_cast<std::size_t>(slot);
    EXPECT_TRUE(sums.take(slot, gradient));
    taken[index] = sums.in_place(slot).data_ptr() == gradient.data_ptr();
    expected[index] = gradient.clone();
    sums.in_place(slot).detach().mul_(2.0);  // as a reduction would
  });
  sums.begin_step();
  sums.begin_pass({});
  network.forward(torch::rand({5, 3}, torch::kFloat64)).square().sum().backward();
  EXPECT_EQ(sums.end_pass(), -1);
  for (std::size_t slot = 0; slot < 4; ++slot) {
    EXPECT_TRUE(torch::equal(sums.result().slots[slot].flatten(), 2.0 * expected[slot].flatten())) << slot;
  }
  for (const std::size_t slot : {1U, 2U}) {
    EXPECT_TRUE(torch::equal(expected[0].flatten(), expected[slot].flatten())) << slot;
  }
  EXPECT_TRUE(taken[3]) << "the gradient of a matrix product was copied";
}

/// LibTorch's own report of what it allocates on this thread.
class Meter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
    live_ += size;
    peak_ = std::max(peak_, live_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t peak() const { return peak_; }

 private:
  std::int64_t live_ = 0, peak_ = 0;
};

std::int64_t peak_bytes(int shards, int samples) {
  Problem problem({.network = "mlp:200", .inputs = 200, .dtype = torch::kFloat32});
  const auto communicator = make_self_communicator();
  const auto examples = test::examples_of(problem, shards, 2);
  const auto meter = std::make_shared<Meter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  ReparameterizedEstimator estimator(problem.parts(*communicator),
                                     {.shards = shards, .samples = samples, .noise = NoiseSharing::shard});
  estimator.run(0, test::source_of(examples), {});
  return meter->peak();
}

TEST(Sums, DoNotGrowWithSamples) {
  const std::int64_t arena = 4 * (200 * 200 + 200 + 3 * 200 + 3);
  const std::int64_t two = peak_bytes(4, 2);
  EXPECT_GT(two, arena);  // the meter sees the sums
  EXPECT_LT(peak_bytes(4, 32), two + arena / 10);
  // A stack of log2(S) + 1 partial sums, twice: from 4 shards to 16 two more levels.
  EXPECT_LT(peak_bytes(16, 2), two + 4 * arena + arena / 10);
}

/// Remembers the weights of every pass.
struct Recorder : torch::nn::Module {
  explicit Recorder(std::vector<torch::Tensor>& seen) : seen_(seen) {
    weight = register_parameter("weight", waves({3, 3}, 0.7));
  }
  torch::Tensor forward(torch::Tensor x) {
    seen_.push_back(weight.detach().clone());
    return x.matmul(weight);
  }
  torch::Tensor weight;

 private:
  std::vector<torch::Tensor>& seen_;
};

/// A user's module with its posterior.
struct UserProblem {
  explicit UserProblem(torch::nn::AnyModule module, torch::Dtype dtype = torch::kFloat64)
      : network(std::move(module), dtype),
        posterior(plan_posterior(network.layout(), parse_families({}), parse_priors({})), network.values(), 0.3, 1) {}
  ReparameterizedEstimator::Parts parts() {
    return {.network = network, .posterior = posterior, .likelihood = likelihood, .communicator = *communicator};
  }
  std::unique_ptr<Communicator> communicator = make_self_communicator();
  Likelihood likelihood = CategoricalLikelihood{3};
  Network network;
  Posterior posterior;
};

TEST(Noise, IsNamedBySeedStepShardAndSample) {
  for (const NoiseSharing sharing : {NoiseSharing::shared, NoiseSharing::shard, NoiseSharing::antithetic}) {
    std::vector<torch::Tensor> seen;
    UserProblem problem(torch::nn::AnyModule(std::make_shared<Recorder>(seen)));
    const ReparameterizedEstimator::Options options{.seed = 9, .shards = 4, .samples = 2, .noise = sharing};
    ReparameterizedEstimator estimator(problem.parts(), options);
    const Problem shaped;  // whose Oracle names the noise
    const Oracle oracle(shaped, options, kObjective);
    const auto examples = test::examples_of(shaped, 4, 4);
    const torch::Tensor mean = problem.posterior.mean().narrow(0, 0, 9).view({3, 3});
    for (const std::int64_t step : {0, 1, 70000}) {
      seen.clear();
      estimator.run(step, test::source_of(examples), {});
      ASSERT_EQ(seen.size(), 8U);
      for (int shard = 0; shard < 4; ++shard) {
        for (int sample = 0; sample < 2; ++sample) {
          const torch::Tensor eps = (seen[static_cast<std::size_t>(2 * shard + sample)] - mean) / 0.3;
          for (std::int64_t i = 0; i < 9; ++i) {
            EXPECT_NEAR(eps.flatten()[i].item<double>(), oracle.noise(step, shard, sample, i), 1e-14)
                << static_cast<int>(sharing) << " " << step << " " << shard << " " << sample;
          }
        }
      }
      const auto drawn = [&](int shard) { return seen[static_cast<std::size_t>(2 * shard)]; };
      const auto mirrored = [&](int a, int b) {
        return (drawn(a) + drawn(b) - 2.0 * mean).abs().max().item<double>() < 1e-14;
      };
      if (sharing == NoiseSharing::shared) {
        EXPECT_TRUE(torch::equal(drawn(0), drawn(3)));
      }
      if (sharing == NoiseSharing::shard) {
        EXPECT_FALSE(torch::equal(drawn(0), drawn(3)) || mirrored(0, 1));
      }
      if (sharing == NoiseSharing::antithetic) {
        EXPECT_TRUE(mirrored(0, 1) && mirrored(2, 3) && !mirrored(0, 3));
      }
    }
    const auto first = estimator.first_draw(1);
    EXPECT_EQ(first.step, 1U);
    EXPECT_EQ(first.seed, 9U);
  }
}

struct Dropped : torch::nn::Module {
  torch::nn::Linear layer = register_module("layer", torch::nn::Linear(3, 3));
  torch::Tensor forward(torch::Tensor x) { return torch::dropout(layer(x), 0.5, is_training()); }
};

TEST(Noise, OfAModulesOwnGeneratorFollowsTheStepToo) {
  UserProblem problem(torch::nn::AnyModule(std::make_shared<Dropped>()));
  ReparameterizedEstimator estimator(problem.parts(), {.seed = 9, .shards = 2});
  const auto examples = test::examples_of(Problem(), 2, 8);
  const auto run = [&](std::int64_t step) {
    torch::rand({17});  // whatever was drawn before
    estimator.run(step, test::source_of(examples), {});
    return copy_of(estimator.gradient());
  };
  const auto first = run(4);
  const auto other = run(5);
  EXPECT_FALSE(same_bits(first, other));
  EXPECT_TRUE(same_bits(first, run(4)));
}

TEST(Buffers, AreMeansOverShardsThatAllBeganAlike) {
  for (const int samples : {1, 2}) {
    Problem problem({.network = "normalized"});
    const auto communicator = make_self_communicator();
    const ReparameterizedEstimator::Options options{
        .seed = 5, .shards = 4, .samples = samples, .noise = NoiseSharing::shard};
    ReparameterizedEstimator estimator(problem.parts(*communicator), options);
    const auto examples = test::examples_of(problem, 4, 5);
    const Oracle oracle(problem, options, kObjective);
    // momentum 0.1 of PyTorch: running <- 0.9 running + 0.1 batch, the variance unbiased.
    const auto& slots = problem.network.layout().slots;
    torch::Tensor means = torch::zeros({4}, torch::kFloat64), variances = torch::zeros({4}, torch::kFloat64);
    for (int shard = 0; shard < 4; ++shard) {
      for (int sample = 0; sample < samples; ++sample) {
        torch::Tensor w = problem.posterior.mean().clone();
        for (std::int64_t i = 0; i < slots[1].offset + slots[1].count; ++i) {
          w[i] += torch::softplus(problem.posterior.raw_scale()[i]) * oracle.noise(0, shard, sample, i);
        }
        const torch::Tensor hidden =
            examples[static_cast<std::size_t>(shard)].inputs.matmul(w.narrow(0, 0, 12).view({4, 3}).t()) +
            w.narrow(0, slots[1].offset, 4);
        means += 0.1 * hidden.mean(0);
        variances += 0.9 + 0.1 * hidden.var(0);
      }
    }
    estimator.run(0, test::source_of(examples), {});
    for (const auto& [name, buffer] : problem.network.float_buffers()) {
      const torch::Tensor& expected = name == "norm.running_mean" ? means : variances;
      EXPECT_LT((buffer - expected / (4.0 * samples)).abs().max().item<double>(), 1e-13) << name;
    }
    ASSERT_EQ(problem.network.integer_buffers().size(), 1U);
    EXPECT_EQ(problem.network.integer_buffers()[0].second.item<std::int64_t>(), 1);
    estimator.run(1, test::source_of(examples), {});
    EXPECT_EQ(problem.network.integer_buffers()[0].second.item<std::int64_t>(), 2);
  }
}

TEST(Totals, CountAccuracyFlagsAndLossesThatAreNotFinite) {
  Problem problem;
  const auto communicator = make_self_communicator();
  ReparameterizedEstimator estimator(problem.parts(*communicator), {.shards = 4, .samples = 2});
  auto examples = test::examples_of(problem, 4, 4);
  const double flags[] = {1.0, 0.0, 2.0};
  const StepTotals totals = estimator.run(0, test::source_of(examples), flags);
  EXPECT_THAT(totals.flags, ::testing::ElementsAre(1.0, 0.0, 2.0));
  EXPECT_TRUE(totals.finite);
  EXPECT_GE(totals.accuracy, 0.0);
  EXPECT_LE(totals.accuracy, 1.0);
  EXPECT_DOUBLE_EQ(totals.accuracy * 32, std::round(totals.accuracy * 32));
  EXPECT_TRUE(estimator.shards_not_finite().empty());

  examples[2].inputs = examples[2].inputs.clone();
  examples[2].inputs[0][0] = std::nan("");
  const StepTotals broken = estimator.run(1, test::source_of(examples), flags);
  EXPECT_FALSE(broken.finite);
  EXPECT_THAT(estimator.shards_not_finite(), ::testing::ElementsAre(2));
  EXPECT_TRUE(estimator.run(2, test::source_of(test::examples_of(problem, 4, 4)), flags).finite);
}

TEST(Totals, AccuracyIsTheShareOfLabelsRankedFirst) {
  // Two rows of three are right: the point network copies its inputs.
  UserProblem problem(torch::nn::AnyModule(torch::nn::Linear(torch::nn::LinearOptions(3, 3).bias(false))));
  problem.posterior = Posterior(plan_posterior(problem.network.layout(), parse_families({"point"}), parse_priors({})),
                                problem.network.values(), 0.3, 1);
  torch::Tensor mean = problem.posterior.mean();
  mean.zero_();
  mean.narrow(0, 0, 9).copy_(torch::eye(3, torch::kFloat64).flatten());
  ReparameterizedEstimator estimator(problem.parts(), {.shards = 2});
  const torch::Tensor one_hot = torch::eye(3, torch::kFloat64);
  const std::vector<Examples> examples = {{one_hot, torch::tensor({0, 1, 0}, torch::kInt64)},
                                          {one_hot, torch::tensor({0, 2, 2}, torch::kInt64)}};
  EXPECT_DOUBLE_EQ(estimator.run(0, test::source_of(examples), {}).accuracy, 4.0 / 6.0);
}

struct Unused : torch::nn::Module {
  torch::nn::Linear used = register_module("used", torch::nn::Linear(3, 3));
  torch::nn::Linear idle = register_module("idle", torch::nn::Linear(3, 3));
  torch::Tensor forward(torch::Tensor x) { return used(x); }
};

TEST(Refusals, NameTheParameterThatIsNotUsed) {
  UserProblem problem(torch::nn::AnyModule(std::make_shared<Unused>()));
  ReparameterizedEstimator estimator(problem.parts(), {});
  const auto examples = test::examples_of(Problem(), 1, 4);
  EXPECT_THAT([&] { estimator.run(0, test::source_of(examples), {}); },
              ThrowsMessage<UserError>(HasSubstr("idle.weight")));
}

TEST(Refusals, OptionsThatDoNotFit) {
  Problem problem;
  const auto communicator = make_self_communicator();
  const auto make = [&](const ReparameterizedEstimator::Options& options) {
    ReparameterizedEstimator estimator(problem.parts(*communicator), options);
  };
  EXPECT_THAT([&] { make({.shards = 3, .noise = NoiseSharing::antithetic}); },
              ThrowsMessage<UserError>(HasSubstr("even")));
  EXPECT_THROW(make({.shards = 0}), UserError);
  EXPECT_THROW(make({.shards = 1, .samples = 0}), UserError);
  const auto two_ranks = make_rehearsal_communicator(0, 2);
  EXPECT_THAT([&] { ReparameterizedEstimator(problem.parts(*two_ranks), {.shards = 3}); },
              ThrowsMessage<UserError>(HasSubstr("--shards 3")));
  EXPECT_EQ(parse_noise("shard"), NoiseSharing::shard);
  EXPECT_THAT([] { parse_noise("antitetic"); }, ThrowsMessage<UserError>(HasSubstr("antithetic")));
}

TEST(Reports, SayWhatTheBoundIs) {
  Problem mixed({.families = {"fc1=point"}}), whole, point({.families = {"point"}});
  EXPECT_EQ(describe_bound(whole.posterior.plan()), "evidence lower bound");
  EXPECT_THAT(describe_bound(mixed.posterior.plan()), HasSubstr("point estimates"));
  EXPECT_THAT(describe_bound(point.posterior.plan()), HasSubstr("none"));
  Objective augmented = kObjective;
  augmented.is_bound = false;
  const auto sums = whole.posterior.measure();
  const ObjectiveValue value =
      evaluate_objective(augmented, augmented.weights(0), 1.0, whole.posterior.plan(), {sums, {}});
  EXPECT_TRUE(std::isnan(value.elbo));
  EXPECT_TRUE(std::isfinite(value.objective));
  ASSERT_EQ(value.kl_of.size(), whole.posterior.segments().size());
  double total = 0.0;
  for (const double kl : value.kl_of) total += kl;
  EXPECT_DOUBLE_EQ(total, value.kl);
}

}  // namespace
}  // namespace credence
