#include "assembly.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/estimators/activation_noise.h"
#include "credence/estimators/reparameterized.h"
#include "credence/estimators/score.h"
#include "credence/likelihoods/latent.h"
#include "credence/networks/zoo.h"
#include "kind_rules.h"

namespace credence {
namespace {

constexpr std::uint64_t kSeeds = std::uint64_t{1} << 56;

torch::Dtype precision_of(const OptionValues& values) {
  const std::string precision = values.text("precision");
  const std::vector<std::string> known = {"float32", "float64", "bf16"};
  if (std::find(known.begin(), known.end(), precision) == known.end()) refuse_unknown("precision", precision, known);
  return precision == "float64" ? torch::kFloat64 : torch::kFloat32;
}

double in_range(const OptionValues& values, const std::string& name, double low, double high) {
  const double value = values.number(name);
  require(value >= low && value <= high, "--{} must be between {} and {}, not {}", name, low, high, value);
  return value;
}

/// Members that begin at one file's weights are told apart by their draws alone.
void warn_of_equal_members(const Posterior& posterior) {
  if (posterior.plan().members == 1 || posterior.is_random()) return;
  if (!torch::equal(posterior.member_part(posterior.mean(), 0), posterior.member_part(posterior.mean(), 1))) return;
  log_warning(
      "all members of this ensemble of point estimates begin at the same weights and see the same batches: they stay "
      "equal; train them as runs of their own --seed, or take a posterior with draws");
}

}  // namespace

void resolve(OptionValues& values, const ExampleSpec& examples, const Machine& machine, int ranks) {
  const auto settle = [&](const std::string& name, const std::string& value) {
    if (values.text(name).empty()) values.set(name, {value});
  };
  if (parse_spec(values.text("network")).name == "vae") {
    settle("likelihood", examples.input_shape.size() == 3 ? "vae-bernoulli" : "vae-gaussian:1");
  }
  settle("likelihood", examples.classes > 0 ? "categorical" : "gaussian:1");
  const std::string optimizer = values.text("optimizer");
  settle("lr", optimizer == "sgd" ? "0.1" : optimizer == "ivon" ? "0.5" : optimizer == "lars" ? "5" : "5e-3");
  settle("scale-lr", values.text("lr"));
  settle("beta2", optimizer == "ivon" ? "0.99999" : "0.999");
  settle("reduction", machine.nccl ? "fast" : "tree");
  const std::string reduction = values.text("reduction");
  const std::vector<std::string> known = {"tree", "fast"};
  if (std::find(known.begin(), known.end(), reduction) == known.end()) refuse_unknown("reduction", reduction, known);
  const bool tree = reduction == "tree";
  settle("shards",
         fmt::format("{}", tree ? std::bit_ceil(static_cast<unsigned>(ranks)) : static_cast<unsigned>(ranks)));
  const std::int64_t shards = values.integer("shards");
  require(shards >= 1, "--shards must be at least 1, not {}", shards);
  require(
      !tree || std::has_single_bit(static_cast<std::uint64_t>(shards)),
      "--reduction tree needs a power of two of shards, and --shards is {}; use a power of two, or --reduction fast",
      shards);
  require(shards % ranks == 0,
          "--shards {} cannot be dealt to {} ranks evenly; start a number of ranks that divides the shards", shards,
          ranks);
  require(in_range(values, "kl-weight", 0.0, 1e12) == 1.0 || in_range(values, "temperature", 0.0, 1e12) == 1.0,
          "--kl-weight and --temperature are two ways to change the objective; use one of them");
  in_range(values, "kl-warmup", 0.0, 1.0);
  const std::int64_t seed = values.integer("seed");
  require(seed >= 0 && seed < static_cast<std::int64_t>(kSeeds), "--seed must be between 0 and 2^56 - 1, not {}", seed);
}

Model build_model(const OptionValues& values, const ExampleSpec& examples, const Machine& machine,
                  const ModelOrigin& origin) {
  Model model;
  model.likelihood = parse_likelihood(values.text("likelihood"), examples);
  const auto seed = static_cast<std::uint64_t>(values.integer("seed"));
  const auto make_network = [&](std::uint64_t network_seed) {
    auto network =
        std::make_unique<Network>(build_module(NetworkChoice{values.text("network"), values.text("norm")}, examples,
                                               output_size(model.likelihood), network_seed),
                                  precision_of(values), machine.device, initial_raw_scales(model.likelihood));
    if (values.text("precision") == "bf16") network->compute_in_bfloat16();
    return network;
  };
  model.network = make_network(seed);
  model.likelihood = likelihood_of(model.likelihood, model.network->module());
  const EnsembleSpec ensemble = split_ensemble(values.texts("posterior"));
  std::vector<torch::Tensor> starts = {model.network->values()};
  for (int member = 1; member < ensemble.members; ++member) {
    // Seeds of other runs' networks are far: a member is no copy of what a neighbouring --seed would train.
    const std::uint64_t other = seed + (static_cast<std::uint64_t>(member) << 40);
    starts.push_back(make_network(other % kSeeds)->values());
  }
  TensorRules<Prior> priors = parse_priors(values.texts("prior"));
  // The default is among the texts, and among the recorded values of an earlier start, which were accepted.
  if (!values.given("prior") || origin.restored) priors.fallback_given = false;
  TensorRules<Family> families = parse_families(ensemble.families);
  add_kind_rules(values, model.network->layout(), families, priors);
  inform_priors(priors, families, {model.network->layout(), ensemble.members}, origin);
  model.posterior =
      std::make_unique<Posterior>(plan_posterior(model.network->layout(), families, priors, ensemble.members),
                                  torch::cat(starts), values.number("initial-scale"), machine.threads, seed);
  model.network->bind(model.posterior->network_weights());
  if (origin.restored) return model;
  model.given_scales = start_at_priors(*model.network, *model.posterior);
  if (const std::string init = values.text("init"); !init.empty()) {
    model.given_scales.merge(start_at_file(init, *model.network, *model.posterior));
  }
  warn_of_equal_members(*model.posterior);
  return model;
}

double learning_rate_scaling(const OptionValues& values) {
  const Spec rule = parse_spec(values.text("lr-scaling"));
  const std::vector<std::string> known = {"none", "linear", "sqrt"};
  if (std::find(known.begin(), known.end(), rule.name) == known.end()) refuse_unknown("lr-scaling", rule.name, known);
  if (rule.name == "none") {
    require(rule.arguments.empty(), "--lr-scaling none takes no batch, not '{}'", rule.arguments);
    return 1.0;
  }
  const std::int64_t base = parse_integer(rule.arguments, "--lr-scaling");
  require(base >= 1, "--lr-scaling {}:BATCH needs the batch that --lr is for, at least 1, not '{}'", rule.name,
          rule.arguments);
  const double ratio = static_cast<double>(values.integer("batch")) / static_cast<double>(base);
  return rule.name == "linear" ? ratio : std::sqrt(ratio);
}

OptimizerOptions optimizer_options(const OptionValues& values, const Objective& objective, const Model& model) {
  using enum kernels::Rule;
  const std::vector<std::string> known = {"adam", "sgd", "ivon", "lars"};
  constexpr kernels::Rule rules[] = {adam, sgd, ivon, lars};
  const std::string name = values.text("optimizer");
  const auto found = std::find(known.begin(), known.end(), name);
  if (found == known.end()) refuse_unknown("optimizer", name, known);
  OptimizerOptions options;
  options.rule = rules[found - known.begin()];
  if (options.rule == ivon) {
    require(values.number("initial-scale") == parse_number(std::string(find_option("initial-scale")->fallback), ""),
            "--optimizer ivon derives the first scales from --hess-init; give that instead of --initial-scale");
    require(values.number("scale-lr") == values.number("lr"),
            "--optimizer ivon has no learning rate of scales, they follow from its Hessian; leave --scale-lr out");
  }
  const double scaling = learning_rate_scaling(values);
  options.learning_rate = scaling * in_range(values, "lr", 0.0, 1e30);
  options.scale_learning_rate = scaling * in_range(values, "scale-lr", 0.0, 1e30);
  options.beta1 = in_range(values, name == "adam" || name == "ivon" ? "beta1" : "momentum", 0.0, 0.999999999);
  options.beta2 = in_range(values, "beta2", 0.0, 0.999999999);
  options.epsilon = in_range(values, "epsilon", 0.0, 1.0);
  if (const double clip = in_range(values, "clip-norm", 0.0, 1e30); clip > 0.0) options.clip_norm = clip;
  options.hess_init = in_range(values, "hess-init", 1e-30, 1e30);
  if (const double clip = in_range(values, "clip-radius", 0.0, 1e30); clip > 0.0) options.clip_radius = clip;
  options.trust = in_range(values, "lars-trust", 0.0, 1e30);
  options.objective = objective;
  options.given_scales = model.given_scales;
  return options;
}

bool deals_members(const OptionValues& values, const Model& model, const DataSource& source, int ranks) {
  const bool exchanges_losses_only = values.text("estimator") == "score";
  return ranks > 1 && model.posterior->plan().members % ranks == 0 && !exchanges_losses_only &&
         source.as_images() == nullptr;
}

std::unique_ptr<Estimator> build_estimator(const OptionValues& values, const Machine& machine, Model& model,
                                           Communicator& communicator) {
  const std::int64_t samples = values.integer("weight-samples");
  require(samples >= 1 && samples <= 1'000'000, "--weight-samples must be between 1 and 1000000, not {}", samples);
  const Estimator::Options options{.seed = static_cast<std::uint64_t>(values.integer("seed")),
                                   .shards = static_cast<int>(values.integer("shards")),
                                   .samples = static_cast<int>(samples),
                                   .noise = parse_noise(values.text("noise")),
                                   .stage_through_host = machine.device.is_cuda() && !machine.nccl,
                                   .share_update = true};
  const Estimator::Parts parts{*model.network, *model.posterior, model.likelihood, communicator};
  const std::string name = values.text("estimator");
  if (name == "reparam") return std::make_unique<ReparameterizedEstimator>(parts, options);
  if (name == "flipout")
    return std::make_unique<ActivationNoiseEstimator>(parts, options, ActivationNoise::Kind::flipout);
  if (name == "local-reparam")
    return std::make_unique<ActivationNoiseEstimator>(parts, options, ActivationNoise::Kind::local);
  if (name == "score") return std::make_unique<ScoreEstimator>(parts, options);
  const std::vector<std::string> known = {"reparam", "flipout", "local-reparam", "score"};
  refuse_unknown("estimator", name, known);
}

}  // namespace credence
