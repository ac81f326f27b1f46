#include "assembly.h"

#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/communication/nccl_devices.h"
#include "credence/estimators/activation_noise.h"
#include "credence/estimators/reparameterized.h"
#include "credence/estimators/score.h"
#include "credence/kernels/cuda_identity.h"
#include "credence/likelihoods/latent.h"
#include "credence/networks/zoo.h"
#include "credence/training/run_state.h"
#include "kind_rules.h"

namespace credence {
namespace {

constexpr int kMostLoaderThreads = 32;  // unless asked for
constexpr std::uint64_t kSeeds = std::uint64_t{1} << 56;

/// The cores that this process may use, as text that is equal for equal sets.
std::string affinity_text(int& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  cores = 1;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return "unknown";
  cores = std::max(CPU_COUNT(&set), 1);
  std::string text = host_name() + ":";
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) text += fmt::format(" {}", core);
  }
  return text;
}

torch::Device choose_device(const std::string& choice, const MpiSession& session) {
  const std::vector<std::string> known = {"auto", "cpu", "cuda"};
  if (std::find(known.begin(), known.end(), choice) == known.end()) refuse_unknown("device", choice, known);
  const bool present = kernels::cuda_available();
  require(choice != "cuda" || present,
          "--device cuda: this build has no CUDA kernels or finds no CUDA device here; "
          "see credence doctor");
  if (choice == "cpu" || !present) return torch::kCPU;
  const auto devices = static_cast<int>(torch::cuda::device_count());
  return torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(session.local_rank() % std::max(devices, 1)));
}

/// Of each rank, as NCCL tells devices apart. Collective.
std::vector<RankDevice> devices_of_ranks(torch::Device device, Communicator& control) {
  const std::string mine = device.is_cuda() ? kernels::cuda_identity(device.index()) : std::string();
  std::vector<RankDevice> devices;
  const auto hosts = control.gather_texts(host_name());
  const auto identities = control.gather_texts(mine);
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) devices.push_back({hosts[rank], identities[rank]});
  return devices;
}

/// Decides for all ranks alike.
void choose_nccl(const std::string& choice, Communicator& control, Machine& machine) {
  const std::vector<std::string> known = {"auto", "mpi", "nccl"};
  if (std::find(known.begin(), known.end(), choice) == known.end()) refuse_unknown("backend", choice, known);
  const std::vector<RankDevice> devices = devices_of_ranks(machine.device, control);
  const bool any_cuda =
      std::any_of(devices.begin(), devices.end(), [](const RankDevice& device) { return !device.identity.empty(); });
  require(choice != "nccl" || any_cuda, "--backend nccl needs --device cuda");
  if (choice == "mpi" || !any_cuda) return;
  const std::string obstacle = nccl_available() ? obstacle_to_nccl(devices) : "this build has no NCCL";
  require(choice != "nccl" || obstacle.empty(),
          "--backend nccl: {}; give each rank a CUDA device of its own in a build with NCCL (see credence doctor), or "
          "use --backend mpi",
          obstacle);
  if (devices.size() == 1) return;
  machine.nccl = obstacle.empty();
  machine.instead_of_nccl = obstacle;
}

double timeout_of(const OptionValues& values) {
  const double seconds = values.number("timeout-seconds");
  require(seconds > 0.0, "--timeout-seconds must be positive, not {}", seconds);
  return seconds;
}

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

Machine choose_machine(const OptionValues& values, MpiSession& session, Communicator& control) {
  Machine machine;
  int cores = 1;
  const std::string mine = affinity_text(cores);
  const auto masks = control.gather_texts(mine);
  const int sharing = static_cast<int>(std::count(masks.begin(), masks.end(), mine));
  if (values.given("threads")) {
    const std::int64_t threads = values.integer("threads");
    require(threads >= 1 && threads <= 4096, "--threads must be between 1 and 4096, not {}", threads);
    machine.threads = static_cast<int>(threads);
  } else if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && std::atoi(variable) > 0) {
    machine.threads = std::atoi(variable);
  } else {
    machine.threads = std::max(cores / sharing, 1);
  }
  machine.loader_threads = std::clamp(cores / sharing - machine.threads, 1, kMostLoaderThreads);
  machine.spare_core = cores > machine.threads * sharing;
  at::set_num_threads(machine.threads);
  machine.device = choose_device(values.text("device"), session);
  if (machine.device.is_cuda()) machine.loader_threads = std::clamp(cores / sharing - 1, 1, kMostLoaderThreads);
  if (values.given("loader-threads")) {
    const std::int64_t threads = values.integer("loader-threads");
    require(threads >= 1 && threads <= 4096, "--loader-threads must be between 1 and 4096, not {}", threads);
    machine.loader_threads = static_cast<int>(threads);
  }
  choose_nccl(values.text("backend"), control, machine);
  return machine;
}

std::unique_ptr<Communicator> make_control_communicator(const OptionValues& values, MpiSession& session) {
  const double timeout_seconds = timeout_of(values);
  if (session.size() == 1) return make_self_communicator();
  return make_mpi_communicator(session, {.order = ReductionOrder::fast, .timeout_seconds = timeout_seconds});
}

std::unique_ptr<Communicator> make_training_communicator(const OptionValues& values, const Machine& machine,
                                                         MpiSession& session) {
  const ReductionOrder order = values.text("reduction") == "tree" ? ReductionOrder::tree : ReductionOrder::fast;
  if (session.size() == 1) return make_self_communicator();
  if (!machine.instead_of_nccl.empty() && session.rank() == 0) {
    log_warning("gradients are exchanged by MPI through host memory, much slower than NCCL: {}",
                machine.instead_of_nccl);
  }
  if (machine.nccl) {
    return make_nccl_communicator(
        session, {.order = order, .timeout_seconds = timeout_of(values), .device = machine.device.index()});
  }
  return make_mpi_communicator(
      session, {.order = order, .timeout_seconds = timeout_of(values), .progress_thread = machine.spare_core});
}

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

void choose_predictive(const std::optional<std::string>& given, Posterior& posterior) {
  if (!given) return;
  const std::vector<std::string> known = {"linearized", "sampled"};
  if (*given != known[0] && *given != known[1]) refuse_unknown("predictive", *given, known);
  posterior.set_linearized(*given == known[0]);
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
                                   .stage_through_host = machine.device.is_cuda() && !machine.nccl};
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

std::unique_ptr<Checkpoint> newest_checkpoint(const std::filesystem::path& directory) {
  CheckpointSearch search = find_newest_checkpoint(directory);
  for (const auto& [file, why] : search.unusable) log_warning("skipping {}: {}", file.string(), why);
  if (search.newest == nullptr && !search.unusable.empty()) {
    throw DataError(fmt::format("none of the {} checkpoints in {} can be used; the newest: {}", search.unusable.size(),
                                directory.string(), search.unusable.front().second));
  }
  return std::move(search.newest);
}

LoadedModel load_model(const std::string& path, const Machine& machine) {
  std::unique_ptr<Checkpoint> found;
  if (std::filesystem::is_directory(path)) {
    found = newest_checkpoint(path);
    if (found == nullptr) throw DataError(fmt::format("{} holds no checkpoint", path));
  } else {
    found = std::make_unique<Checkpoint>(path);
  }
  OptionValues values = from_ini(found->config(), found->file().string());
  ExampleSpec examples = examples_of(*found);
  Model model = build_model(values, examples, machine, {true, found.get()});
  restore_posterior(*found, *model.network, *model.posterior);
  DataOptions reading = data_options(values, machine);
  reading.normalization = examples.normalization;
  reading.trained_shape = examples.input_shape;
  return {std::move(*found), std::move(values), std::move(examples), std::move(reading), std::move(model)};
}

DataOptions data_options(const OptionValues& values, const Machine& machine) {
  return {.normalization = {}, .image_size = values.text("image-size"), .threads = machine.loader_threads};
}

std::unique_ptr<DataSource> open_for(const LoadedModel& loaded, const std::string& spec, Split split) {
  const ExampleSpec& trained = loaded.examples;
  auto source = open_data(spec, split, loaded.reading);
  const ExampleSpec& data = source->spec();
  require(data.input_shape == trained.input_shape,
          "the examples of {} have inputs [{}], and the network was trained on [{}]", spec,
          fmt::join(data.input_shape, ", "), fmt::join(trained.input_shape, ", "));
  require(data.feature_names.empty() || trained.feature_names.empty() || data.feature_names == trained.feature_names,
          "the columns of {} are {}, and the network was trained on {}, in this order", spec,
          fmt::join(data.feature_names, ", "), fmt::join(trained.feature_names, ", "));
  return source;
}

void require_same_targets(const ExampleSpec& data, const ExampleSpec& trained, const std::string& spec) {
  if (trained.classes > 0) {
    require(data.classes > 0 && data.classes <= trained.classes,
            "{} has {} classes (0: real-valued targets), and the network was trained on {}", spec, data.classes,
            trained.classes);
    // Labels are places in a list of names: of another list they would mean something else.
    if (!data.class_names.empty() && !trained.class_names.empty() && data.class_names != trained.class_names) {
      const auto [mine, theirs] = std::ranges::mismatch(data.class_names, trained.class_names);
      throw DataError(fmt::format("{} has other classes than the network was trained on: '{}' where training had '{}'",
                                  spec, mine == data.class_names.end() ? "none" : *mine,
                                  theirs == trained.class_names.end() ? "none" : *theirs));
    }
  } else {
    const std::int64_t columns = data.classes > 0 ? 1 : data.target_size;
    require(columns == trained.target_size, "{} has {} targets an example, and the network was trained on {}", spec,
            columns, trained.target_size);
  }
}

}  // namespace credence
