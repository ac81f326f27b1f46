// Log densities, expectations under a Gaussian and KLs against SciPy (tests/references/priors/densities.py), gradients
// against finite differences.
#include "credence/priors/density.h"

#include <numbers>

#include "credence/base/errors.h"
#include "unit/priors/cases.h"

namespace credence {
namespace {

using priors_cases::expect_gradients;
using priors_cases::reference;
using priors_cases::slot_of;
using priors_cases::tensor_of;
using torch::Tensor;

const nlohmann::json& densities() {
  static const nlohmann::json values = reference("densities.json");
  return values;
}

/// SciPy's densities and integrals are good to 1e-12; sums of n terms.
void expect_near(const Tensor& value, double expected, double terms = 1.0) {
  ASSERT_EQ(value.scalar_type(), torch::kDouble);
  ASSERT_EQ(value.dim(), 0);
  EXPECT_NEAR(value.item<double>(), expected, 4e-12 * (std::abs(expected) + terms));
}

double density_nats(const std::string& spec, const Tensor& weights) {
  return negative_log_density_nats(parse_prior(spec), slot_of(weights.sizes().vec()), weights).item<double>();
}

TEST(Density, AgreesWithSciPy) {
  for (const auto& item : densities()["densities"]) {
    SCOPED_TRACE(item["spec"]);
    const std::vector<double> weights = item["weights"], nats = item["nats"];
    const Prior prior = parse_prior(item["spec"]);
    double total = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      SCOPED_TRACE(weights[i]);
      expect_near(negative_log_density_nats(prior, slot_of({1}), tensor_of({weights[i]})), nats[i]);
      total += nats[i];
    }
    expect_near(negative_log_density_nats(prior, slot_of({1}), tensor_of(weights)), total,
                static_cast<double>(weights.size()));
  }
}

TEST(Density, WithACommonScaleAgreesWithIntegration) {
  for (const auto& item : densities()["marginals"]) {
    SCOPED_TRACE(item["spec"].get<std::string>() + " of " + item["weights"].dump());
    const Tensor row = tensor_of(item["weights"]).repeat({item["repeat"].get<std::int64_t>()}).unsqueeze(0);
    const Prior prior = parse_prior(item["spec"]);
    expect_near(negative_log_density_nats(prior, slot_of(row.sizes().vec()), row), item["nats"],
                static_cast<double>(row.numel()));
  }
}

TEST(Density, OfAUnitIsItsRows) {
  const Tensor rows = tensor_of({0.3, -0.1, 0.02, 2.0, 1.0, -4.0}).reshape({2, 3});
  EXPECT_NEAR(density_nats("horseshoe:0.5,unit", rows),
              density_nats("horseshoe:0.5,unit", rows[0].unsqueeze(0)) +
                  density_nats("horseshoe:0.5,unit", rows[1].unsqueeze(0)),
              1e-13);
  // A convolution's row is everything into one output channel.
  EXPECT_DOUBLE_EQ(density_nats("horseshoe:0.5,unit", rows.reshape({2, 3, 1, 1})),
                   density_nats("horseshoe:0.5,unit", rows));
  // A bias has one weight a unit.
  const Tensor bias = tensor_of({0.3, -2.0, 0.01});
  EXPECT_NEAR(density_nats("horseshoe:0.5,unit", bias), density_nats("horseshoe:0.5", bias), 1e-13);
  EXPECT_NEAR(density_nats("horseshoe:0.5,unit", bias.unsqueeze(1)), density_nats("horseshoe:0.5", bias), 1e-11);
}

TEST(Density, HorseshoeStopsAtItsPole) {
  const double at_floor = density_nats("horseshoe:0.2", tensor_of({0.2e-4}));
  for (const double weight : {0.0, 1e-12, -1e-5}) {
    EXPECT_NEAR(density_nats("horseshoe:0.2", tensor_of({weight})), at_floor, 1e-13) << weight;
  }
  EXPECT_LT(at_floor, density_nats("horseshoe:0.2", tensor_of({0.3e-4})) - 0.01);
  for (const char* spec : {"horseshoe:0.2", "horseshoe:0.2,unit", "hierarchical"}) {
    for (const double weight : {0.0, 1e-7}) {
      Tensor weights = torch::full({2, 3}, weight, torch::kDouble).requires_grad_();
      negative_log_density_nats(parse_prior(spec), slot_of({2, 3}), weights).backward();
      EXPECT_TRUE(weights.grad().eq(0.0).all().item<bool>()) << spec << " at " << weight;
    }
  }
}

TEST(Density, HasItsGradient) {
  const Tensor weights = tensor_of({0.31, -0.02, 1.7, -4.0, 0.004, 25.0}).reshape({2, 3});
  for (const char* spec : {"normal:0.3", "normal:fan-in", "laplace:0.7", "logistic:0.4", "student-t:2.5,0.6",
                           "scale-mixture:0.25,1,0.02", "horseshoe:0.8", "horseshoe:0.8,unit", "hierarchical:0.6"}) {
    SCOPED_TRACE(spec);
    const Prior prior = parse_prior(spec);
    expect_gradients(
        [&](const auto& in) {
          return negative_log_density_nats(prior, slot_of({2, 3}), in[0]);
        },
        {weights}, 1e-8);
  }
}

TEST(Density, IsFiniteWithFiniteGradientsEverywhere) {
  const Tensor extremes = torch::tensor({0.0F, 1e-30F, -1e-30F, 1e-8F, -1e4F, 1e10F}, torch::kFloat).reshape({2, 3});
  for (const char* spec : {"normal", "laplace", "logistic", "student-t", "scale-mixture", "horseshoe",
                           "horseshoe:0.01,unit", "hierarchical"}) {
    Tensor weights = extremes.clone().requires_grad_();
    const Tensor nats = negative_log_density_nats(parse_prior(spec), slot_of({2, 3}), weights);
    EXPECT_EQ(nats.scalar_type(), torch::kDouble);
    EXPECT_TRUE(std::isfinite(nats.item<double>())) << spec;
    nats.backward();
    EXPECT_EQ(weights.grad().scalar_type(), torch::kFloat);
    EXPECT_TRUE(weights.grad().isfinite().all().item<bool>()) << spec << weights.grad();
  }
}

TEST(Density, IsRefusedWhereThereIsNone) {
  for (const char* spec : {"log-uniform", "empirical", "spike-slab"}) {
    EXPECT_THROW(density_nats(spec, tensor_of({0.1})), UserError) << spec;
  }
  for (const char* spec : {"checkpoint:a.h5", "weights:a.safetensors"}) {
    EXPECT_THROW(density_nats(spec, tensor_of({0.1})), InternalError) << spec;
  }
  EXPECT_EQ(density_nats("none", tensor_of({0.1, 3.0})), 0.0);
}

struct Gaussian {
  Tensor mean;
  Tensor scale;
};

Gaussian gaussian_of(const nlohmann::json& item) {
  return {tensor_of(item["means"]), tensor_of(item["scales"])};
}

Tensor cross_entropy(const Prior& prior, const Gaussian& q, const std::vector<Tensor>& arrays = {}) {
  return cross_entropy_nats(prior, slot_of(q.mean.sizes().vec()), q.mean, q.scale, arrays);
}

/// E_q[-log p(w)] with KL(q(s) || p(s)) of a prior's own scale s.
Tensor with_kl_of_arrays(const Prior& prior, const Gaussian& q, const std::vector<Tensor>& arrays) {
  return cross_entropy(prior, q, arrays) - prior_entropy_nats(prior, arrays);
}

TEST(CrossEntropy, AgreesWithIntegration) {
  for (const auto& item : densities()["cross_entropies"]) {
    SCOPED_TRACE(item["spec"]);
    expect_near(cross_entropy(parse_prior(item["spec"]), gaussian_of(item)), item["nats"], 7.0);
  }
  EXPECT_EQ(cross_entropy(NoPrior{}, {torch::ones(3), torch::ones(3)}).item<double>(), 0.0);
}

TEST(CrossEntropy, OfTheEmpiricalPriorIsTheSmallestOfAllNormals) {
  const auto& item = densities()["empirical"];
  expect_near(cross_entropy(EmpiricalPrior{}, gaussian_of(item)), item["nats"], 7.0);
}

TEST(CrossEntropy, OfAHierarchicalPriorIntegratesOverItsScale) {
  for (const auto& item : densities()["hierarchical"]) {
    const std::vector<Tensor> arrays = {tensor_of({item["location"]}), tensor_of({item["raw_scale"]})};
    expect_near(with_kl_of_arrays(parse_prior(item["spec"]), gaussian_of(item), arrays), item["nats"], 7.0);
  }
}

TEST(CrossEntropy, OfAHierarchicalPriorBoundsTheMarginal) {
  // Jensen: with q a point (a tiny scale), the bound over s can only lie above the exact marginal; after optimising
  // q(s), the gap for 200 weights is that of a log-normal to the posterior of s, below 0.01 nats.
  const Tensor weights = torch::randn({200}, torch::kDouble) * 0.3;
  const Prior prior = HierarchicalPrior{1.0};
  const Gaussian q{weights, torch::full_like(weights, 1e-9)};
  std::vector<Tensor> arrays;
  for (const PriorArray& array : prior_arrays(prior, slot_of({200}))) {
    arrays.push_back(torch::full(array.shape, array.initial, torch::kDouble).requires_grad_());
  }
  torch::optim::LBFGS optimizer(arrays, torch::optim::LBFGSOptions(1.0).max_iter(200).line_search_fn("strong_wolfe"));
  const Tensor bound = optimizer.step([&] {
    optimizer.zero_grad();
    const Tensor nats = with_kl_of_arrays(prior, q, arrays);
    nats.backward();
    return nats;
  });
  const double gap = with_kl_of_arrays(prior, q, arrays).item<double>() -
                     negative_log_density_nats(prior, slot_of({200}), weights).item<double>();
  EXPECT_GT(gap, 0.0);
  EXPECT_LT(gap, 0.01);
  EXPECT_GT(bound.item<double>(), with_kl_of_arrays(prior, q, arrays).item<double>());
}

InformedPrior informed_prior(const Tensor& mean, const Tensor& scale, double inflate) {
  auto tensors = std::make_shared<std::map<std::string, InformedTensor>>();
  (*tensors)["fc1.weight"] = {mean, scale, {}};
  return {tensors, inflate, "checkpoint:first.h5,inflate=3"};
}

TEST(Informed, AgreesWithIntegration) {
  const auto& item = densities()["informed"];
  const Prior prior = informed_prior(tensor_of(item["prior_means"]), tensor_of(item["prior_scales"]), item["inflate"]);
  const Gaussian q = gaussian_of(item);
  expect_near(cross_entropy(prior, q), item["cross_entropy"], 7.0);
  expect_near(negative_log_density_nats(prior, slot_of({7}), q.mean), item["density"], 7.0);
  expect_gradients([&](const auto& in) { return cross_entropy(prior, {in[0], in[1]}); }, {q.mean, q.scale});
}

TEST(Informed, MustFitTheNetwork) {
  const Tensor one = torch::ones({2, 3});
  EXPECT_NO_THROW(require_fit(informed_prior(one, one, 1.0), slot_of({2, 3})));
  EXPECT_NO_THROW(require_fit(NormalPrior{}, slot_of({2, 3})));
  EXPECT_THROW(require_fit(informed_prior(one, one, 1.0), slot_of({3, 2})), UserError);
  EXPECT_THROW(require_fit(informed_prior(one, torch::ones({6}), 1.0), slot_of({2, 3})), UserError);
  EXPECT_THROW(require_fit(informed_prior(one, torch::zeros({2, 3}), 1.0), slot_of({2, 3})), UserError);
  EXPECT_THROW(require_fit(informed_prior(one / 0.0, one, 1.0), slot_of({2, 3})), UserError);
  Slot other = slot_of({2, 3});
  other.name = "head.weight";
  try {
    require_fit(informed_prior(one, one, 1.0), other);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("head.weight"));
  }
}

double entropy(const Gaussian& q) {
  return (torch::log(q.scale) + 0.5 * std::log(2.0 * std::numbers::pi * std::numbers::e)).sum().item<double>();
}

TEST(LogUniform, IsTheApproximationOfThePaper) {
  const auto& item = densities()["log_uniform"];
  const std::vector<double> means = item["means"], scales = item["scales"], exact = item["exact"],
                            approximate = item["approximate"];
  for (std::size_t i = 0; i < means.size(); ++i) {
    const Gaussian q{tensor_of({means[i]}), tensor_of({scales[i]})};
    const double kl = cross_entropy(LogUniformPrior{}, q).item<double>() - entropy(q);
    EXPECT_NEAR(kl, approximate[i], 1e-13 * (10.0 + approximate[i]));
    // What their fit leaves against the exact integral (at most 0.0085, near log alpha = -4).
    EXPECT_NEAR(kl, exact[i], 0.009);
  }
}

TEST(CrossEntropy, HasItsGradients) {
  const Tensor mean = tensor_of({0.0, 0.3, -0.02, 1.7, -2.0}), scale = tensor_of({0.5, 0.1, 0.2, 0.03, 1.3});
  for (const char* spec : {"normal:0.3", "normal:fan-in", "laplace:0.7", "spike-slab", "log-uniform", "empirical"}) {
    SCOPED_TRACE(spec);
    const Prior prior = parse_prior(spec);
    // From 0 outwards KL_2017 goes like |m|^2.97, so a step of 1e-6 is safe.
    expect_gradients([&](const auto& in) { return cross_entropy(prior, {in[0], in[1]}); }, {mean, scale});
  }
  expect_gradients(
      [&](const auto& in) {
        return cross_entropy(HierarchicalPrior{0.7}, {in[0], in[1]}, {in[2], in[3]});
      },
      {mean, scale, tensor_of({-0.4}), tensor_of({-1.2})});
}

TEST(CrossEntropy, IsFiniteWithFiniteGradientsAtZeroAndInSinglePrecision) {
  for (const char* spec : {"laplace", "log-uniform", "spike-slab", "empirical", "hierarchical"}) {
    const Prior prior = parse_prior(spec);
    Tensor mean = torch::tensor({0.0F, 1e-30F, 1e5F, -1.0F}).requires_grad_();
    Tensor scale = torch::tensor({1e-6F, 1.0F, 1e-6F, 1e4F}).requires_grad_();
    std::vector<Tensor> arrays;
    for (const PriorArray& array : prior_arrays(prior, slot_of({4}))) {
      arrays.push_back(torch::full(array.shape, array.initial).requires_grad_());
    }
    const Tensor nats = cross_entropy(prior, {mean, scale}, arrays);
    EXPECT_EQ(nats.scalar_type(), torch::kDouble);
    nats.backward();
    EXPECT_TRUE(std::isfinite(nats.item<double>())) << spec;
    EXPECT_TRUE(mean.grad().isfinite().all().item<bool>()) << spec << mean.grad();
    EXPECT_TRUE(scale.grad().isfinite().all().item<bool>()) << spec << scale.grad();
  }
}

TEST(SpikeSlab, KlAgreesWithIntegration) {
  const auto& item = densities()["spike_slab"];
  const auto prior = std::get<SpikeSlabPrior>(parse_prior(item["spec"]));
  const Gaussian q = gaussian_of(item);
  const Tensor inclusion = tensor_of(item["inclusions"]);
  expect_near(spike_slab_kl_nats(prior, q.mean, q.scale, inclusion), item["kl"], 7.0);
  expect_gradients([&](const auto& in) { return spike_slab_kl_nats(prior, in[0], in[1], in[2]); },
                   {q.mean, q.scale, inclusion.clamp(0.1, 0.9)}, 1e-8);
}

TEST(SpikeSlab, CertainInclusionIsTheGaussian) {
  const SpikeSlabPrior prior{0.3, 0.8};
  const Gaussian q{tensor_of({0.1, -2.0}), tensor_of({0.2, 0.5})};
  EXPECT_NEAR(spike_slab_kl_nats(prior, q.mean, q.scale, torch::ones(2)).item<double>(),
              cross_entropy(prior, q).item<double>() - entropy(q), 1e-12);
  Tensor certain = torch::tensor({0.0F, 1.0F}).requires_grad_();
  const Tensor kl = spike_slab_kl_nats(prior, q.mean, q.scale, certain);
  kl.backward();
  EXPECT_TRUE(std::isfinite(kl.item<double>()));
  EXPECT_TRUE(certain.grad().isfinite().all().item<bool>());
}

TEST(Treatment, IsStatedForEveryPrior) {
  const auto of = [](const char* spec) { return treatment(parse_prior(spec)); };
  for (const char* spec : {"normal", "normal:fan-in", "none"}) EXPECT_EQ(of(spec), PriorTreatment::kernels) << spec;
  for (const char* spec : {"laplace", "log-uniform", "hierarchical", "empirical", "spike-slab", "checkpoint:a.h5",
                           "weights:a.safetensors"}) {
    EXPECT_EQ(of(spec), PriorTreatment::closed_form) << spec;
  }
  EXPECT_EQ(treatment(InformedPrior{}), PriorTreatment::closed_form);
  for (const char* spec : {"logistic", "student-t", "scale-mixture", "horseshoe", "horseshoe:unit"}) {
    EXPECT_EQ(of(spec), PriorTreatment::monte_carlo) << spec;
    EXPECT_THROW(cross_entropy(parse_prior(spec), {torch::zeros(2), torch::ones(2)}), InternalError) << spec;
  }
}

TEST(PriorArrays, StartTheHierarchicalScaleAtFanIn) {
  const auto arrays = prior_arrays(HierarchicalPrior{1.0}, slot_of({8, 25}, 25));
  ASSERT_EQ(arrays.size(), 2U);
  EXPECT_EQ(arrays[0].name, "prior_location");
  EXPECT_EQ(arrays[1].name, "prior_raw_scale");
  for (const PriorArray& array : arrays) EXPECT_THAT(array.shape, testing::ElementsAre(1));
  EXPECT_DOUBLE_EQ(arrays[0].initial, std::log(0.2));
  EXPECT_NEAR(std::log1p(std::exp(arrays[1].initial)), 1.0 / std::sqrt(400.0), 1e-12);
  EXPECT_TRUE(prior_arrays(LaplacePrior{}, slot_of({3})).empty());
}

}  // namespace
}  // namespace credence
