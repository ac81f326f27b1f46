// Posterior families beyond independent Gaussians, and priors that the kernels do not know.
#include <gmock/gmock.h>

#include "unit/estimators/linear_regression.h"

namespace credence {
namespace {

using kernels::NoiseStream;
using kernels::Purpose;
using test::Problem;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double kDifference = 1e-5;
// Central differences err by kDifference^2 f''' / 6 and by rounding 1e-16 |f| / kDifference with |f| of order 10.
constexpr double kTolerance = 2e-8;

struct Case {
  std::string name;
  std::vector<std::string> families, priors;
  int shards = 1, samples = 1;
  NoiseSharing noise = NoiseSharing::shared;
  int members = 1;
};

std::vector<Case> cases() {
  return {{"dropout", {"dropout:0.3"}, {"normal:0.8"}},
          {"dropconnect", {"dropconnect:0.3"}, {"normal:0.8"}, 2, 2, NoiseSharing::shard},
          {"gaussian_dropout", {"gaussian-dropout:0.3"}, {"normal:0.8"}},
          {"gaussian_dropout_log_uniform", {"gaussian-dropout:0.3"}, {"log-uniform"}},
          {"sparse", {"sparse"}, {"log-uniform"}},
          {"low_rank", {"low-rank:2"}, {"normal:0.8"}, 2, 1, NoiseSharing::antithetic},
          {"full_rank", {"full-rank"}, {"normal:0.8"}},
          {"two_ranks", {"low-rank:1", "fc1=low-rank:2"}, {"normal:0.8"}},
          {"low_rank_hierarchical", {"low-rank:2"}, {"hierarchical:0.7"}},
          {"full_rank_empirical", {"full-rank"}, {"empirical"}},
          {"full_rank_laplace", {"full-rank"}, {"laplace:0.5"}, 2, 2},
          {"mixed", {"fc1=low-rank:3", "fc2.weight=full-rank", "fc2.bias=dropconnect:0.5"}, {"normal:0.7"}, 2},
          {"laplace", {"mean-field"}, {"laplace:0.7"}},
          {"logistic", {"mean-field"}, {"logistic:0.7"}, 2, 2, NoiseSharing::shard},
          {"student_t", {"mean-field"}, {"student-t:3,0.7"}},
          {"scale_mixture", {"mean-field"}, {"scale-mixture:0.4,0.9,0.3"}},
          {"horseshoe", {"mean-field"}, {"horseshoe:0.5"}},
          {"unit_horseshoe", {"mean-field"}, {"horseshoe:0.5,unit"}},
          {"hierarchical", {"mean-field"}, {"hierarchical:0.7"}, 2},
          {"empirical", {"mean-field"}, {"empirical"}},
          {"ensemble", {"mean-field", "fc2.weight=low-rank:2"}, {"student-t"}, 2, 2, NoiseSharing::shard, 3},
          {"ensemble_of_hierarchical", {"mean-field"}, {"hierarchical:0.7"}, 1, 1, NoiseSharing::shared, 2},
          {"laplace_map", {"point"}, {"laplace:0.7"}},
          {"by_tensor", {"fc1.weight=point"}, {"fc1=student-t:3,1", "fc2=hierarchical"}}};
}

/// The objective per example at the posterior's present values, every noise fixed by (seed, step).
double objective_of(Problem& problem, ReparameterizedEstimator& estimator, const std::vector<Examples>& shards,
                    const Objective& objective) {
  problem.posterior.set_drawn(std::nullopt);
  const StepTotals totals = estimator.run(3, test::source_of(shards), {});
  return evaluate_objective(objective, objective.weights(3), totals.mean_nll, problem.posterior.plan(),
                            measure_complexity(problem.posterior, totals.prior_nats))
             .objective /
         static_cast<double>(objective.dataset_size);
}

/// {L, T} of the objective.
using Weighting = std::pair<double, double>;

class FamilyGradient : public ::testing::TestWithParam<std::tuple<Case, Weighting>> {};

TEST_P(FamilyGradient, IsThatOfTheObjectiveByFiniteDifferences) {
  const auto& [c, weighting] = GetParam();
  Problem problem({.families = c.families, .priors = c.priors, .members = c.members});
  const auto communicator = make_self_communicator();
  ReparameterizedEstimator estimator(problem.parts(*communicator),
                                     {.seed = 5, .shards = c.shards, .samples = c.samples, .noise = c.noise});
  const auto shards = test::examples_of(problem, c.shards, 4);
  const Objective objective{.dataset_size = 20, .kl_weight = weighting.first, .temperature = weighting.second};
  Posterior& posterior = problem.posterior;
  // Further arrays away from where they start, so that no gradient vanishes by symmetry.
  for (int slot = posterior.plan().network_slots; slot < static_cast<int>(posterior.layout().slots.size()); ++slot) {
    torch::Tensor array = posterior.view(posterior.mean(), slot);
    array.add_(0.2 * test::waves(array.sizes().vec(), 1.9));
    if (posterior.layout().slots[static_cast<std::size_t>(slot)].array == "lower") {
      array.zero_();  // its upper triangle is no parameter
    }
  }

  std::vector<std::pair<torch::Tensor, std::string>> arenas = {{posterior.mean(), "mean"}};
  if (posterior.has_gaussian()) arenas.push_back({posterior.raw_scale(), "raw scale"});
  std::vector<torch::Tensor> expected;
  for (auto& [arena, name] : arenas) {
    torch::Tensor differences = torch::zeros_like(arena);
    for (std::size_t i = 0; i < posterior.segments().size(); ++i) {
      const auto& segment = posterior.segments()[i];
      if (name != "mean" && !segment.gaussian) continue;
      for (std::int64_t at = segment.offset; at < segment.offset + segment.count; ++at) {
        double* value = arena.data_ptr<double>() + at;
        const double old = *value;
        *value = old + kDifference;
        const double above = objective_of(problem, estimator, shards, objective);
        *value = old - kDifference;
        const double below = objective_of(problem, estimator, shards, objective);
        *value = old;
        // Each member descends on its own objective; what is reported is their mean.
        differences[at] = c.members * (above - below) / (2.0 * kDifference);
      }
    }
    expected.push_back(differences);
  }

  posterior.set_drawn(std::nullopt);
  std::vector<torch::Tensor> before;
  for (auto& [arena, name] : arenas) before.push_back(arena.clone());
  const Objective::Weights weights = objective.weights(3);
  estimator.run(3, test::source_of(shards), {}, weights.cross_entropy / 20.0);
  GradientSum gradient = estimator.gradient();
  add_closed_form_terms(posterior, {weights.cross_entropy / 20.0, weights.entropy / 20.0},
                        estimator.gradient_multiplier(), gradient);
  test::descend(posterior, gradient, objective, 3, estimator.gradient_multiplier());
  for (std::size_t arena = 0; arena < arenas.size(); ++arena) {
    torch::Tensor descent = before[arena] - arenas[arena].first;
    for (std::size_t i = 0; i < posterior.segments().size(); ++i) {
      const Slot& slot = posterior.layout().slots[i];
      torch::Tensor got = descent.narrow(0, slot.offset, slot.count);
      torch::Tensor want = expected[arena].narrow(0, slot.offset, slot.count);
      if (slot.array == "lower" && arenas[arena].second == "mean") {
        // Elements on and above the diagonal are never changed.
        const torch::Tensor free = got.ne(0.0).to(torch::kFloat64);
        EXPECT_GT(free.sum().item<double>(), 0.0) << c.name;
        want = want * free;
      }
      const double largest = want.abs().max().item<double>();
      EXPECT_LT((got - want).abs().max().item<double>(), kTolerance * (1.0 + largest))
          << c.name << " " << slot.name << " " << slot.array << " " << arenas[arena].second;
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Case, Weighting>>& test) {
  const auto& [c, weighting] = test.param;
  return c.name + (weighting.first < 1.0 ? "_light" : weighting.second < 1.0 ? "_cold" : "");
}

INSTANTIATE_TEST_SUITE_P(Cases, FamilyGradient,
                         ::testing::Combine(::testing::ValuesIn(cases()),
                                            ::testing::Values(Weighting{1.0, 1.0}, Weighting{0.4, 1.0},
                                                              Weighting{1.0, 0.3})),
                         name_of);

Problem two_layers(const std::string& family, const std::string& prior = "normal:1") {
  return Problem({.network = "mlp:300,tanh", .inputs = 200, .families = {family}, .priors = {prior}});
}

torch::Tensor ratio(Problem& problem, int slot, const NoiseStream& noise) {
  problem.posterior.draw(noise);
  const Posterior& p = problem.posterior;
  return p.view(p.weights(), slot) / p.view(p.mean(), slot);
}

TEST(Masks, DropoutDropsWholeUnitsOfHiddenLayersOnly) {
  Problem problem = two_layers("dropout:0.25");
  const int first = 0, second = 2;  // fc1.weight, fc2.weight
  double kept = 0.0;
  const int draws = 40;
  for (int draw = 0; draw < draws; ++draw) {
    const NoiseStream noise{.seed = 1, .step = static_cast<std::uint32_t>(draw)};
    const torch::Tensor factor = ratio(problem, second, noise);  // [3, 300]
    EXPECT_TRUE(torch::equal(factor[0].gt(0.0), factor[2].gt(0.0)));
    EXPECT_TRUE(((factor == 0.0) | ((factor - 4.0 / 3.0).abs() < 1e-12)).all().item<bool>());
    kept += factor[0].gt(0.0).sum().item<double>();
    EXPECT_TRUE(torch::allclose(ratio(problem, first, noise), torch::ones({300, 200}, torch::kFloat64)));
  }
  const double n = 300.0 * draws;
  EXPECT_NEAR(kept / n, 0.75, 5.0 * std::sqrt(0.75 * 0.25 / n));
}

TEST(Masks, DropconnectAndGaussianDropoutAreIndependentByWeight) {
  Problem connect = two_layers("dropconnect:0.25"), gaussian = two_layers("gaussian-dropout:0.2");
  const double n = 60000.0;
  const torch::Tensor mask = ratio(connect, 0, {.seed = 2});
  EXPECT_NEAR(mask.gt(0.0).sum().item<double>() / n, 0.75, 5.0 * std::sqrt(0.75 * 0.25 / n));
  EXPECT_NEAR(mask.mean().item<double>(), 1.0, 5.0 * std::sqrt(0.25 / 0.75 / n));
  const torch::Tensor factor = ratio(gaussian, 0, {.seed = 2});
  EXPECT_NEAR(factor.mean().item<double>(), 1.0, 5.0 * 0.5 / std::sqrt(n));  // alpha = 0.2 / 0.8
  EXPECT_NEAR(factor.var().item<double>(), 0.25, 5.0 * 0.25 * std::sqrt(2.0 / n));
}

TEST(Masks, TrainingAndPredictionShareNoNoise) {
  Problem problem = two_layers("dropconnect:0.5");
  const torch::Tensor training = ratio(problem, 0, {.seed = 4}).gt(0.0);
  const torch::Tensor prediction = ratio(problem, 0, {.seed = 4, .purpose = Purpose::prediction}).gt(0.0);
  const double equal = training.eq(prediction).to(torch::kFloat64).mean().item<double>();
  EXPECT_NEAR(equal, 0.5, 5.0 * 0.5 / std::sqrt(60000.0));
}

TEST(SpikeSlab, DrawsZerosAtTheInclusionProbabilityAndItsMeanIsTheMean) {
  Problem problem = two_layers("spike-slab", "spike-slab:0.5,1");
  Posterior& p = problem.posterior;
  const int logit = p.plan().network_slots;  // the array of the first slot
  ASSERT_EQ(p.layout().slots[static_cast<std::size_t>(logit)].array, "inclusion_logit");
  p.view(p.mean(), logit).fill_(std::log(0.3 / 0.7));
  p.view(p.mean(), 0).fill_(2.0);
  torch::Tensor raw = p.raw_scale();
  p.view(raw, 0).fill_(-3.0);
  p.draw({.seed = 9});
  const torch::Tensor weights = p.view(p.weights(), 0);
  const double n = 60000.0;
  const double included = weights.ne(0.0).sum().item<double>() / n;
  EXPECT_NEAR(included, 0.3, 5.0 * std::sqrt(0.21 / n));
  EXPECT_NEAR(weights.mean().item<double>(), 0.6, 5.0 * 2.0 * std::sqrt(0.21 / n));
  EXPECT_NEAR(p.mean_weights()[0].item<double>(), 0.6, 1e-12);
  const ObjectiveValue value = evaluate_objective({}, {}, 0.0, p.plan(), measure_complexity(p, {}));
  const double s = std::log1p(std::exp(-3.0));
  const double slab = -std::log(s) + (s * s + 4.0) / 2.0 - 0.5;
  const double bernoulli = 0.3 * std::log(0.3 / 0.5) + 0.7 * std::log(0.7 / 0.5);
  EXPECT_NEAR(value.kl_of[0], n * (0.3 * slab + bernoulli), 1e-6 * n);
}

TEST(Categorical, HasItsKlBesidePointEstimates) {
  Layout layout;
  for (const char* name : {"fc.weight", "depth_logits"}) {
    Slot slot;
    slot.name = name;
    slot.shape = {2};
    slot.count = 2;
    slot.offset = layout.elements;
    layout.elements += kernels::kNoiseGroup;
    layout.slots.push_back(slot);
  }
  layout.slots[1].categorical_log_prior = {std::log(0.5), std::log(0.5)};
  torch::Tensor values = torch::zeros({layout.elements}, torch::kFloat64);
  values[kernels::kNoiseGroup] = std::log(3.0);
  Posterior p(plan_posterior(layout, parse_families({"point"}), parse_priors({"normal:1"})), values, 0.1, 1);
  const ObjectiveValue value = evaluate_objective({}, {}, 0.0, p.plan(), measure_complexity(p, {}));
  EXPECT_NEAR(value.kl, 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-14);
  EXPECT_EQ(value.kl, value.kl_of[1]);
  EXPECT_TRUE(std::isnan(value.elbo) && std::isnan(value.kl_of[0]));
}

TEST(Ensemble, MembersAreWhatTheyWouldBeAlone) {
  Problem ensemble({.families = {"point"}, .priors = {"normal:0.8"}, .members = 2});
  const auto communicator = make_self_communicator();
  const auto shards = test::examples_of(ensemble, 2, 4);
  const Objective objective{.dataset_size = 20};
  const auto descend = [&](Problem& problem) {
    ReparameterizedEstimator estimator(problem.parts(*communicator), {.seed = 5, .shards = 2});
    const StepTotals totals = estimator.run(0, test::source_of(shards), {});
    const auto update =
        test::descend(problem.posterior, estimator.gradient(), objective, 0, estimator.gradient_multiplier());
    return evaluate_objective(objective, {}, totals.mean_nll, problem.posterior.plan(), {update.sums, {}}).objective;
  };
  const double mean_objective = descend(ensemble);
  double sum = 0.0;
  for (int member = 0; member < 2; ++member) {
    Problem alone({.families = {"point"}, .priors = {"normal:0.8"}});
    torch::Tensor start = alone.posterior.mean();
    start.mul_(1.0 - 0.2 * member);
    sum += descend(alone);
    EXPECT_TRUE(torch::equal(alone.posterior.mean(), ensemble.posterior.member_part(ensemble.posterior.mean(), member)))
        << member;
  }
  EXPECT_NEAR(mean_objective, sum / 2.0, 1e-10);
  EXPECT_EQ(split_ensemble({"ensemble:3,dropout:0.1", "fc1=point"}).members, 3);
  EXPECT_EQ(split_ensemble({"ensemble:3,dropout:0.1"}).families, std::vector<std::string>{"dropout:0.1"});
  EXPECT_EQ(split_ensemble({"ensemble:3"}).families, std::vector<std::string>{"mean-field"});
  EXPECT_THROW(split_ensemble({"ensemble:0"}), UserError);
}

TEST(Ensemble, MembersWorkedOnOneByOneMakeTheSameStep) {
  const test::ProblemOptions options{.families = {"mean-field", "fc2.weight=low-rank:2"},
                                     .priors = {"student-t", "fc2=hierarchical:0.7", "fc2.weight=normal:0.8"},
                                     .members = 3};
  const Objective objective{.dataset_size = 20};
  struct Outcome {
    std::vector<double> nats;
    Optimizer::Result update;
  };
  const auto step = [&](Problem& problem) {
    const auto communicator = make_self_communicator();
    const auto shards = test::examples_of(problem, 2, 4);
    ReparameterizedEstimator estimator(problem.parts(*communicator),
                                       {.seed = 5, .shards = 2, .samples = 2, .noise = NoiseSharing::shard});
    const StepTotals totals = estimator.run(4, test::source_of(shards), {});
    GradientSum gradient = estimator.gradient();
    Outcome outcome{totals.prior_nats, {}};
    outcome.nats.push_back(totals.mean_nll);
    const double weight = 1.0 / static_cast<double>(objective.dataset_size);
    for (const TermNats& term :
         add_closed_form_terms(problem.posterior, {weight, weight}, estimator.gradient_multiplier(), gradient)) {
      outcome.nats.insert(outcome.nats.end(), {term.cross_entropy, term.entropy});
    }
    outcome.update = test::descend(problem.posterior, gradient, objective, 4, estimator.gradient_multiplier());
    return outcome;
  };
  Problem whole(options), before(options);
  const Outcome expected = step(whole);
  std::vector<double> nats(expected.nats.size());
  double squares = 0.0;
  for (int member = 0; member < 3; ++member) {
    Problem part(options);
    part.posterior.work_on({member, member + 1});
    const Outcome outcome = step(part);
    ASSERT_EQ(outcome.nats.size(), nats.size());
    for (std::size_t i = 0; i < nats.size(); ++i) nats[i] += outcome.nats[i];
    squares += outcome.update.gradient_norm * outcome.update.gradient_norm;
    for (const auto arena : {&Posterior::mean, &Posterior::raw_scale}) {
      const auto& slots = part.posterior.layout().slots;
      for (int slot = 0; slot < static_cast<int>(slots.size()); ++slot) {
        const bool own = part.posterior.plan().member_of(slot) == member;
        const Posterior& same = own ? whole.posterior : before.posterior;
        EXPECT_TRUE(
            torch::equal(part.posterior.view((part.posterior.*arena)(), slot), same.view((same.*arena)(), slot)))
            << member << " " << slots[static_cast<std::size_t>(slot)].name
            << slots[static_cast<std::size_t>(slot)].array;
      }
    }
  }
  for (std::size_t i = 0; i < nats.size(); ++i) EXPECT_NEAR(nats[i], expected.nats[i], 1e-12 * std::abs(nats[i])) << i;
  EXPECT_NEAR(std::sqrt(squares), expected.update.gradient_norm, 1e-12);
  EXPECT_NE(expected.nats.back(), 0.0);
}

TEST(Refusals, FamiliesAndPriorsThatDoNotGoTogether) {
  const auto refuses = [](const std::string& family, const std::string& prior, const std::string& word) {
    EXPECT_THAT([&] { two_layers(family, prior); }, ThrowsMessage<UserError>(HasSubstr(word))) << family << prior;
  };
  refuses("full-rank", "normal:1", "low-rank");
  refuses("spike-slab", "normal:1", "spike-slab");
  refuses("mean-field", "spike-slab", "spike-slab");
  refuses("dropout:0.1", "laplace", "weight decay");
  refuses("point", "log-uniform", "mean-field");
  refuses("point", "hierarchical", "mean-field");
  refuses("dropconnect:0.2", "empirical", "weight decay");
  refuses("swag:3", "empirical", "low-rank:K or full-rank");
  refuses("dropout:0.2", "log-uniform", "gaussian-dropout");
  refuses("sparse", "laplace", "leave --prior out");
  refuses("sparse", "normal:1", "'REGEX=log-uniform'");
  refuses("dropout:1", "normal:1", "between 0 and 1");
  refuses("low-rank:0", "normal:1", "rank");
  EXPECT_THAT([] { Problem({.network = "linear", .families = {"dropout:0.1"}}); },
              ThrowsMessage<UserError>(HasSubstr("dropconnect")));
}

TEST(Priors, OfSparseAreLogUniformWhereNobodyNamesOne) {
  EXPECT_NO_THROW(Problem({.families = {"sparse"}, .priors = {}}));
  EXPECT_NO_THROW(Problem({.families = {"sparse"}, .priors = {"log-uniform"}}));
  EXPECT_NO_THROW(Problem({.families = {"fc1=sparse"}, .priors = {"normal:1", "fc1=log-uniform"}}));
  EXPECT_THAT([] { Problem({.families = {"fc1=sparse"}, .priors = {"laplace"}}); },
              ThrowsMessage<UserError>(HasSubstr("fc1.weight")));
}

TEST(Temperature, NeedsAnEntropy) {
  const auto check = [](const std::string& family, double temperature) {
    const Problem problem = two_layers(family, family == "sparse" ? "log-uniform" : "normal:1");
    require_entropy_to_temper({.dataset_size = 20, .temperature = temperature}, problem.posterior.plan());
  };
  for (const char* family : {"point", "dropout:0.1", "dropconnect:0.1", "gaussian-dropout:0.1", "laplace", "swag:3"}) {
    EXPECT_THAT([&] { check(family, 0.5); }, ThrowsMessage<UserError>(HasSubstr("--kl-weight"))) << family;
    EXPECT_NO_THROW(check(family, 1.0)) << family;
  }
  for (const char* family : {"mean-field", "sparse", "low-rank:2"}) EXPECT_NO_THROW(check(family, 0.5)) << family;
}

TEST(Bound, OfGaussianDropoutIsAKlOnlyUnderTheLogUniformPrior) {
  Problem published({.families = {"gaussian-dropout:0.2"}, .priors = {"log-uniform"}});
  Problem decayed({.families = {"gaussian-dropout:0.2"}, .priors = {"normal:0.5"}});
  EXPECT_THAT(describe_bound(published.posterior.plan()), HasSubstr("constant in the weights"));
  EXPECT_THAT(describe_bound(decayed.posterior.plan()), HasSubstr("weight decay"));
  const auto nats = [](Problem& problem) {
    return evaluate_objective({}, {}, 0.0, problem.posterior.plan(), measure_complexity(problem.posterior, {}))
        .objective;
  };
  EXPECT_EQ(nats(published), 0.0);
  // sum of mean^2 / (2 s^2 (1 - p)) with the normaliser of the prior.
  const Posterior& p = decayed.posterior;
  double expected = 0.0;
  for (int slot = 0; slot < p.plan().network_slots; ++slot) {
    const torch::Tensor mean = p.view(p.mean(), slot);
    const double s = 0.5 * std::sqrt(0.8);
    expected += mean.square().sum().item<double>() / (2.0 * s * s) +
                static_cast<double>(mean.numel()) * (0.5 * std::log(2.0 * std::numbers::pi) + std::log(s));
  }
  EXPECT_NEAR(nats(decayed), expected, 1e-10);
}

}  // namespace
}  // namespace credence
