// The laws that every family of posteriors obeys, and every mixture of families.
#include <gmock/gmock.h>

#include "unit/estimators/family_laws.h"

namespace credence {
namespace {

using kernels::NoiseStream;
using test::Problem;

constexpr int kDraws = 4000;
// Of a mean over kDraws; with a variance of zero only rounding is left.
constexpr double kStandardErrors = 4.0, kRounding = 1e-11;
const double kLogTwoPi = std::log(2.0 * std::numbers::pi);

struct LawCase {
  std::string name;
  std::vector<std::string> families, priors;
  bool has_entropy = false;  // finite, of q over all that is random
  int members = 1;
};

std::vector<LawCase> cases() {
  return {{"mean_field", {"mean-field"}, {"normal:0.8"}, true},
          {"mean_field_laplace", {"mean-field"}, {"laplace:0.7"}, true},
          {"mean_field_student_t", {"mean-field"}, {"student-t:3,0.7"}, true},
          {"mean_field_logistic", {"mean-field"}, {"logistic:0.7"}, true},
          {"mean_field_scale_mixture", {"mean-field"}, {"scale-mixture:0.5,1,0.1"}, true},
          {"mean_field_horseshoe", {"mean-field"}, {"normal:0.8", "fc1.weight=horseshoe:0.5"}, true},
          {"mean_field_hierarchical", {"mean-field"}, {"hierarchical:0.7"}, true},
          {"mean_field_empirical", {"mean-field"}, {"empirical"}, true},
          {"low_rank", {"low-rank:2"}, {"normal:0.8"}, true},
          {"low_rank_laplace", {"low-rank:2"}, {"laplace:0.7"}, true},
          {"low_rank_hierarchical", {"low-rank:2"}, {"hierarchical:0.7"}, true},
          {"full_rank", {"full-rank"}, {"normal:0.8"}, true},
          {"full_rank_empirical", {"full-rank"}, {"empirical"}, true},
          {"spike_slab", {"spike-slab"}, {"spike-slab:0.4,0.9"}, true},
          {"sparse", {"sparse"}, {"log-uniform"}},
          {"point", {"point"}, {"normal:0.8"}},
          {"dropout", {"dropout:0.3"}, {"normal:0.8"}},
          {"dropconnect", {"dropconnect:0.3"}, {"normal:0.8"}},
          {"gaussian_dropout", {"gaussian-dropout:0.3"}, {"normal:0.8"}},
          {"gaussian_dropout_log_uniform", {"gaussian-dropout:0.3"}, {"log-uniform"}},
          {"laplace", {"laplace"}, {"normal:0.8"}},
          {"laplace_last_layer", {"laplace:last-layer"}, {"normal:0.8"}},
          {"swag", {"swag:3"}, {"normal:0.8"}},
          {"two_ranks", {"low-rank:1", "bias=low-rank:2"}, {"normal:0.8"}, true},
          {"low_rank_and_full_rank", {"low-rank:2", "fc2=full-rank"}, {"normal:0.8"}, true},
          {"low_rank_and_masks", {"low-rank:2", "fc1.weight=dropconnect:0.4"}, {"normal:0.8"}},
          {"low_rank_and_dropout", {"low-rank:2", "fc2.weight=dropout:0.4"}, {"normal:0.8"}},
          {"low_rank_and_spike_slab",
           {"low-rank:2", "fc1.weight=spike-slab"},
           {"normal:0.8", "fc1.weight=spike-slab:0.4,0.9"},
           true},
          {"full_rank_and_spike_slab",
           {"full-rank", "fc2.weight=spike-slab"},
           {"hierarchical", "fc2.weight=spike-slab:0.4,0.9"},
           true},
          {"mean_field_and_dropout", {"dropout:0.3", "fc1=mean-field"}, {"normal:0.8"}},
          {"sparse_and_gaussian_dropout", {"sparse", "fc1=gaussian-dropout:0.3"}, {"log-uniform", "fc1=normal:0.8"}},
          {"ensemble_of_low_rank", {"low-rank:2"}, {"hierarchical:0.7"}, true, 2},
          {"ensemble_of_swag", {"swag:3"}, {"normal:0.8"}, false, 2},
          {"ensemble_of_dropout", {"dropout:0.3"}, {"normal:0.8"}, false, 2}};
}

/// Further arrays away from where they start, and kept arrays as a fit could leave them.
void fill_arrays(Posterior& posterior) {
  const auto& slots = posterior.layout().slots;
  for (int slot = posterior.plan().network_slots; slot < static_cast<int>(slots.size()); ++slot) {
    torch::Tensor array = posterior.view(posterior.mean(), slot);
    const std::string& name = slots[static_cast<std::size_t>(slot)].array;
    array.add_((name == "inclusion_logit" ? 1.5 : 0.3) * test::waves(array.sizes().vec(), 1.9));
  }
  std::map<int, std::int64_t> before;  // weights of a member's earlier slots
  for (int slot = 0; slot < posterior.plan().network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    if (posterior.plan().families[index].kind != Family::Kind::full_rank) continue;
    std::int64_t& first = before[posterior.plan().member_of(slot)];
    test::array_of(posterior, slot, "lower").tril_(first - 1);
    first += slots[index].count;
  }
  for (std::size_t i = 0; i < posterior.plan().kept.slots.size(); ++i) {
    torch::Tensor array = posterior.kept_view(static_cast<int>(i));
    const std::string& name = posterior.plan().kept.slots[i].array;
    const torch::Tensor waves = test::waves(array.sizes().vec(), 1.3 + 0.2 * static_cast<double>(i));
    array.copy_(name == "precision" ? 6.0 + 3.0 * waves : name == "variance" ? 0.2 + 0.1 * waves : 0.4 * waves);
  }
  posterior.set_collected(5);
}

NoiseStream stream(const Posterior& posterior, int draw) {
  const auto& families = posterior.plan().families;
  const auto number = static_cast<std::uint32_t>(draw);
  if (std::any_of(families.begin(), families.end(), [](const Family& family) { return family.afterwards(); }))
    return {.seed = 11, .purpose = kernels::Purpose::prediction, .sample = number};
  return {.seed = 11, .step = number};
}

struct Prepared {
  explicit Prepared(const LawCase& c)
      : problem({.network = "mlp:2,tanh",
                 .likelihood = CategoricalLikelihood{2},
                 .inputs = 2,
                 .families = c.families,
                 .priors = c.priors,
                 .members = c.members}),
        posterior(problem.posterior) {
    fill_arrays(posterior);
  }
  torch::Tensor draw(int number) {
    posterior.draw(stream(posterior, number));
    return test::gathered(posterior, posterior.weights());
  }
  /// [kDraws, weights]
  torch::Tensor draws() {
    std::vector<torch::Tensor> rows;
    for (int number = 0; number < kDraws; ++number) rows.push_back(draw(number));
    return torch::stack(rows);
  }

  Problem problem;
  Posterior& posterior;
};

/// Every mean over the first axis against what it estimates.
void expect_means(const torch::Tensor& values, const torch::Tensor& expected) {
  const torch::Tensor error = (values.var(0) / static_cast<double>(values.size(0))).sqrt();
  const torch::Tensor gap = (values.mean(0) - expected).abs() / (kStandardErrors * error + kRounding);
  EXPECT_LT(gap.max().item<double>(), 1.0) << gap;
}

class FamilyLaws : public ::testing::TestWithParam<LawCase> {};

TEST_P(FamilyLaws, TheSameStreamGivesTheSameBits) {
  Prepared first(GetParam()), second(GetParam());
  const torch::Tensor draw = first.draw(7);
  bool differs = false;  // two masks of few units may be equal
  for (int other = 8; other < 40; ++other) differs = differs || !torch::equal(first.draw(other), draw);
  EXPECT_EQ(differs, first.posterior.is_random());
  EXPECT_TRUE(torch::equal(first.draw(7), draw));
  EXPECT_TRUE(torch::equal(second.draw(7), draw));
}

TEST_P(FamilyLaws, DrawsHaveTheMeanAndTheCovarianceThatAreClaimed) {
  Prepared p(GetParam());
  const torch::Tensor weights = p.draws();
  const torch::Tensor mean = test::gathered(p.posterior, p.posterior.mean_weights());
  const torch::Tensor deviations = weights - mean;
  expect_means(weights, mean);
  expect_means(deviations.unsqueeze(2) * deviations.unsqueeze(1), test::ClaimedCovariance(p.posterior).matrix());
}

INSTANTIATE_TEST_SUITE_P(All, FamilyLaws, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

torch::Tensor normal_log_density(const torch::Tensor& x, const torch::Tensor& mean, const torch::Tensor& scale) {
  return -0.5 * ((x - mean) / scale).square() - torch::log(scale) - 0.5 * kLogTwoPi;
}

/// log q and log p of draws, [kDraws], over all that is random: weights and the scales of hierarchical priors.
class LogDensities {
 public:
  torch::Tensor q, p;
  std::vector<double> charged;  // mean -log p(w) of the priors without a closed form

  LogDensities(const Posterior& posterior, const torch::Tensor& weights)
      : q(torch::zeros({kDraws}, torch::kFloat64)), p(torch::zeros_like(q)), posterior_(posterior) {
    std::int64_t first = 0;
    torch::manual_seed(13);
    for (int slot = 0; slot < posterior.plan().network_slots; ++slot) {
      const auto index = static_cast<std::size_t>(slot);
      const std::int64_t count = posterior.layout().slots[index].count;
      const torch::Tensor w = weights.narrow(1, first, count);
      if (posterior.plan().families[index].kind == Family::Kind::spike_slab) {
        add_spike_slab(slot, w);
      } else {
        gaussian_.push_back(torch::arange(first, first + count));
        add_prior(slot, w);
      }
      first += count;
    }
    if (gaussian_.empty()) return;
    const torch::Tensor places = torch::cat(gaussian_);
    const torch::Tensor covariance =
        test::ClaimedCovariance(posterior).matrix().index_select(0, places).index_select(1, places);
    const torch::Tensor deviations = (weights - test::gathered(posterior, posterior.mean())).index_select(1, places);
    const torch::Tensor squares = (deviations.matmul(torch::linalg_inv(covariance)) * deviations).sum(1);
    q = q - 0.5 * (squares + torch::logdet(covariance) + static_cast<double>(places.numel()) * kLogTwoPi);
  }

 private:
  void add_spike_slab(int slot, const torch::Tensor& w) {
    const auto& prior = std::get<SpikeSlabPrior>(posterior_.plan().priors[static_cast<std::size_t>(slot)]);
    const torch::Tensor pi = test::inclusion_of(posterior_, slot);
    const torch::Tensor m = posterior_.view(posterior_.mean(), slot).flatten();
    const torch::Tensor s = posterior_.view(posterior_.scales(), slot).flatten();
    const torch::Tensor zero = torch::zeros_like(m), wide = torch::full_like(m, prior.scale);
    q = q + torch::where(w.ne(0.0), torch::log(pi) + normal_log_density(w, m, s), torch::log(1.0 - pi)).sum(1);
    p = p + torch::where(w.ne(0.0), std::log(prior.probability) + normal_log_density(w, zero, wide),
                         torch::full_like(w, std::log(1.0 - prior.probability)))
                .sum(1);
  }

  void add_prior(int slot, const torch::Tensor& w) {
    const auto index = static_cast<std::size_t>(slot);
    const Prior& prior = posterior_.plan().priors[index];
    const Slot& place = posterior_.layout().slots[index];
    if (const auto* hierarchical = std::get_if<HierarchicalPrior>(&prior)) {
      const torch::Tensor location = test::array_of(posterior_, slot, "prior_location");
      const torch::Tensor deviation = torch::log1p(torch::exp(test::array_of(posterior_, slot, "prior_raw_scale")));
      const torch::Tensor log_s = location + deviation * torch::randn({kDraws}, torch::kFloat64);
      const torch::Tensor s = log_s.exp();
      const double a = hierarchical->hyper_scale;
      q = q + normal_log_density(log_s, location, deviation) - log_s;
      p = p + normal_log_density(w, torch::zeros_like(w), s.unsqueeze(1)).sum(1) +
          0.5 * std::log(2.0 / std::numbers::pi) - std::log(a) - s.square() / (2.0 * a * a);
    } else if (std::holds_alternative<EmpiricalPrior>(prior)) {
      const torch::Tensor variance =
          test::ClaimedCovariance(posterior_).matrix().diagonal().index_select(0, gaussian_.back());
      const torch::Tensor mean = posterior_.view(posterior_.mean(), slot).flatten();
      const torch::Tensor s = (mean.square() + variance).mean().sqrt();
      p = p + normal_log_density(w, torch::zeros_like(w), s).sum(1);
    } else {
      std::vector<double> values;
      for (int draw = 0; draw < kDraws; ++draw) {
        values.push_back(-negative_log_density_nats(prior, place, w[draw].view(place.shape)).item<double>());
      }
      p = p + torch::tensor(values, torch::kFloat64);
      const double mean = -torch::tensor(values, torch::kFloat64).mean().item<double>();
      if (treatment(prior) == PriorTreatment::monte_carlo) charged.push_back(mean);
    }
  }

  const Posterior& posterior_;
  std::vector<torch::Tensor> gaussian_;  // places of the weights that are jointly Gaussian
};

std::vector<LawCase> cases_with_entropy() {
  std::vector<LawCase> chosen;
  for (const LawCase& c : cases()) {
    if (c.has_entropy) chosen.push_back(c);
  }
  return chosen;
}

class EntropyLaws : public ::testing::TestWithParam<LawCase> {};

/// E_q[-log q] is the entropy that a temperature scales, E_q[log q - log p] the KL that the ELBO subtracts, once.
TEST_P(EntropyLaws, OfDrawsAreThoseOfTheObjective) {
  Prepared prepared(GetParam());
  Posterior& posterior = prepared.posterior;
  const LogDensities log_density(posterior, prepared.draws());
  const ComplexitySums sums = measure_complexity(posterior, log_density.charged);
  const auto objective = [&](double a, double b) {
    return evaluate_objective({.dataset_size = 20}, {a, b}, 0.0, posterior.plan(), sums);
  };
  const double members = GetParam().members;
  const double entropy = members * (objective(1.0, 1.0).objective - objective(1.0, 2.0).objective);
  const double kl = members * objective(1.0, 1.0).kl;
  expect_means(-log_density.q, torch::tensor(entropy, torch::kFloat64));
  expect_means(log_density.q - log_density.p, torch::tensor(kl, torch::kFloat64));
  EXPECT_NEAR(members * objective(0.4, 0.4).objective, 0.4 * kl, 1e-9);
  EXPECT_NEAR(objective(1.0, 1.0).elbo, -kl / members, 1e-9);
}

/// The objective without data, by central differences, at weights that differ.
TEST_P(EntropyLaws, GradientOfTheComplexityIsThatOfTheObjective) {
  Prepared prepared(GetParam());
  Posterior& posterior = prepared.posterior;
  if (!monte_carlo_slots(posterior.plan()).empty()) return;  // FamilyGradient has their draws
  const Objective cold{.dataset_size = 20, .temperature = 0.3};
  const auto value = [&] {
    return evaluate_objective(cold, cold.weights(0), 0.0, posterior.plan(), measure_complexity(posterior, {}))
               .objective *
           GetParam().members / 20.0;
  };
  constexpr double kStep = 1e-5;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> before_and_differences;
  for (torch::Tensor arena : {posterior.mean(), posterior.raw_scale()}) {
    torch::Tensor differences = torch::zeros_like(arena);
    for (const auto& segment : posterior.segments()) {
      if (!segment.gaussian && arena.is_same(posterior.raw_scale())) continue;
      for (std::int64_t at = segment.offset; at < segment.offset + segment.count; ++at) {
        double* number = arena.data_ptr<double>() + at;
        const double old = *number;
        *number = old + kStep;
        const double above = value();
        *number = old - kStep;
        const double below = value();
        *number = old;
        differences[at] = (above - below) / (2.0 * kStep);
      }
    }
    before_and_differences.emplace_back(arena.clone(), differences);
  }
  GradientSum gradient;
  for (const Slot& slot : posterior.layout().slots)
    gradient.slots.push_back(torch::zeros({slot.count}, torch::kFloat64));
  const Objective::Weights weights = cold.weights(0);
  add_closed_form_terms(posterior, {weights.cross_entropy / 20.0, weights.entropy / 20.0}, 1.0, gradient);
  test::descend(posterior, gradient, cold, 0, 1.0);
  const auto& [means, mean_differences] = before_and_differences[0];
  const auto& [raw_scales, scale_differences] = before_and_differences[1];
  // Rounding of a sum of order 10 over the step, and its third derivative.
  EXPECT_LT((means - posterior.mean() - mean_differences).abs().max().item<double>(), 2e-8);
  EXPECT_LT((raw_scales - posterior.raw_scale() - scale_differences).abs().max().item<double>(), 2e-8);
}

INSTANTIATE_TEST_SUITE_P(All, EntropyLaws, ::testing::ValuesIn(cases_with_entropy()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace credence
