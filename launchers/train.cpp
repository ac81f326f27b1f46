#include "credence/training/train.h"

#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/estimators/curvature.h"
#include "credence/networks/hierarchical_groups.h"
#include "credence/training/run_state.h"
#include "progress.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

const std::vector<CommandOption>& train_extras() {
  static const std::vector<CommandOption> extras = {
      {"out", "run directory: a run in it is continued (default runs/DATA-NETWORK)"},
      {"resume", "directory or checkpoint to continue from, where it is not the one in --out"},
      {"overwrite", "start anew, even where --out holds a run", true},
      {"config", "file with 'name = value' lines; the command line wins"},
      {"json", "one JSON object about the run as last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

/// What rank 0 found in the run directory.
struct Start {
  fs::path directory;
  std::unique_ptr<RunDirectoryLock> lock;  // rank 0
  std::unique_ptr<Checkpoint> checkpoint;  // rank 0, where a run is continued
  OptionValues values;                     // on every rank
  bool resumed = false;
};

std::string name_for_directory(const std::string& spec) {
  std::string name = spec;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '.') c = '_';
  }
  return name;
}

fs::path directory_of(const CommandLine& line) {
  if (const auto out = line.text("out")) return *out;
  if (const auto resume = line.text("resume")) {
    return fs::is_directory(*resume) ? fs::path(*resume) : fs::path(*resume).parent_path();
  }
  return fs::path("runs") /
         (name_for_directory(line.training.text("data")) + "-" + name_for_directory(line.training.text("network")));
}

/// UserError where ranks were started with different options, naming the first that differs.
void require_same_options(const CommandLine& line, Communicator& control) {
  std::string mine;
  for (const auto& [name, values] : line.training.all()) mine += fmt::format("--{} {}\n", name, fmt::join(values, " "));
  for (const auto& [name, values] : line.extras) mine += fmt::format("--{} {}\n", name, fmt::join(values, " "));
  const auto all = control.gather_texts(mine);
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const auto lines_of = [](const std::string& text) {
      const auto parts = split(text, '\n');
      return std::set<std::string>(parts.begin(), parts.end());
    };
    const auto here = lines_of(all[0]);
    const auto there = lines_of(all[rank]);
    std::vector<std::string> different;
    std::set_symmetric_difference(here.begin(), here.end(), there.begin(), there.end(), std::back_inserter(different));
    throw UserError(fmt::format("ranks 0 and {} were started with different options: {}; give every rank the same",
                                rank, fmt::join(different, " | ")));
  }
}

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw StorageError(fmt::format("cannot create {}: {}", directory.string(), error.message()));
}

void remove_run(const fs::path& directory) {
  for (const fs::path& file : find_newest_checkpoint(directory).files) fs::remove(file);
  for (const char* name : {"config.ini", "status.json", "log.txt"}) fs::remove(directory / name);
}

/// The checkpoint to continue from, or null for a new run. Rank 0.
std::unique_ptr<Checkpoint> find_start(const CommandLine& line, const fs::path& directory) {
  const auto resume = line.text("resume");
  if (line.has("overwrite")) {
    require(!resume, "--overwrite starts anew and --resume continues: give one of them");
    remove_run(directory);
    return nullptr;
  }
  if (!resume) return newest_checkpoint(directory);
  std::unique_ptr<Checkpoint> checkpoint;
  if (fs::is_directory(*resume)) {
    checkpoint = newest_checkpoint(*resume);
    require(checkpoint != nullptr, "--resume {}: that directory holds no checkpoint", *resume);
  } else {
    checkpoint = std::make_unique<Checkpoint>(*resume);
  }
  if (const auto newest = newest_checkpoint(directory)) {
    require(newest->integer("step") <= checkpoint->integer("step"),
            "--resume {} is at step {}, and {} already holds step {}; give another --out", *resume,
            checkpoint->integer("step"), directory.string(), newest->integer("step"));
  }
  return checkpoint;
}

/// Takes the directory and decides whether this is a new run. Collective: every rank ends with the same values or
/// throws the same error.
Start begin(const CommandLine& line, MpiSession& session, Communicator& control) {
  Start start;
  start.directory = directory_of(line);
  std::string recorded;
  collectively(control, [&] {
    if (session.rank() != 0) return;
    make_directory(start.directory);
    start.lock = std::make_unique<RunDirectoryLock>(start.directory);
    start.checkpoint = find_start(line, start.directory);
    if (start.checkpoint) recorded = start.checkpoint->config();
  });
  recorded = control.broadcast_text(recorded, 0);
  start.resumed = !recorded.empty();
  set_status_directory(start.directory.string());
  open_log({.rank = session.rank(), .size = session.size(), .directory = start.directory});
  start.values =
      start.resumed ? merge_for_resume(from_ini(recorded, "the recorded configuration"), line.training) : line.training;
  return start;
}

std::int64_t planned_steps(const OptionValues& values, const SamplingPlan& plan) {
  if (const std::string steps = values.text("steps"); !steps.empty()) {
    const std::int64_t count = parse_integer(steps, "--steps");
    require(count >= 1, "--steps must be at least 1, not {}", steps);
    return count;
  }
  const double epochs = values.number("epochs");
  require(epochs > 0.0 && epochs < 1e9, "--epochs must be positive, not {}", epochs);
  return plan.steps(epochs);
}

bool any_family(const Model& model, Family::Kind kind) {
  const auto& families = model.posterior->plan().families;
  return std::any_of(families.begin(), families.end(), [&](const Family& family) { return family.kind == kind; });
}

std::optional<TrainingOptions::Collection> collection_of(const OptionValues& values, const Model& model,
                                                         std::int64_t total_steps, double steps_per_epoch) {
  if (!any_family(model, Family::Kind::swag)) return std::nullopt;
  const double start = values.number("swag-start");
  require(start >= 0.0 && start < 1.0, "--swag-start must be a fraction of the run from 0 to below 1, not {}", start);
  const bool given = !values.text("swag-every").empty();
  const std::int64_t every =
      given ? values.integer("swag-every") : std::max<std::int64_t>(std::llround(steps_per_epoch), 1);
  require(every >= 1, "--swag-every must be at least 1, not {}", every);
  const std::int64_t first = std::max<std::int64_t>(std::llround(start * static_cast<double>(total_steps)), 1);
  require((total_steps - first) / every >= 1,
          "--posterior swag would collect one iterate, at step {} of {}, and needs two or more, {} steps apart: train "
          "longer, or give an earlier --swag-start or a smaller --swag-every",
          first, total_steps, every);
  return TrainingOptions::Collection{first, every};
}

std::optional<LaplaceOptions> laplace_of(const OptionValues& values, const Model& model, const Machine& machine) {
  const std::string precision = values.text("laplace-precision");
  const std::vector<std::string> known = {"evidence", "prior"};
  if (precision != known[0] && precision != known[1]) refuse_unknown("laplace-precision", precision, known);
  if (!any_family(model, Family::Kind::laplace)) return std::nullopt;
  hessian_root(model.likelihood, torch::zeros({1, columns_read(model.likelihood)}));  // refuses what it does not know
  return LaplaceOptions{.fit_precision = precision == known[0],
                        .parts = static_cast<int>(values.integer("shards")),
                        .stage_through_host = machine.device.is_cuda() && !machine.nccl};
}

struct Figures {  // of the start table
  const Start& start;
  const Machine& machine;
  const MpiSession& session;
  const DataSource& source;
  const Model& model;
  std::int64_t first_step;
  std::int64_t total_steps;
  bool tree;
};

void log_start_table(const Figures& figures, Communicator& control) {
  std::set<std::string> hosts;
  for (const std::string& host : control.gather_texts(host_name())) hosts.insert(host);
  const OptionValues& values = figures.start.values;
  const Layout& layout = figures.model.network->layout();
  std::int64_t gaussian = 0;
  for (const auto& segment : figures.model.posterior->segments()) gaussian += segment.gaussian ? segment.count : 0;
  log_info("run        {}", figures.start.directory.string());
  log_info("ranks      {} on {} host{}, {} thread{} each, {}, {}", figures.session.size(), hosts.size(),
           hosts.size() == 1 ? "" : "s", figures.machine.threads, figures.machine.threads == 1 ? "" : "s",
           figures.machine.device.is_cuda() ? "CUDA" : "CPU",
           figures.session.size() == 1 ? "no communication"
           : figures.machine.nccl
               ? "NCCL " + nccl_version()
               : figures.session.library_version() + (figures.tree ? ", tree reduction" : ", the library's reduction"));
  log_info("data       {}: {} examples, {} a step in {} shard{}", values.text("data"), figures.source.size(),
           values.text("batch"), values.text("shards"), values.text("shards") == "1" ? "" : "s");
  log_info("network    {}: {} parameters, {} of them Gaussian", values.text("network"), layout.parameters(), gaussian);
  log_info("posterior  {} | prior {} | likelihood {} | estimator {} | noise {}",
           fmt::join(values.texts("posterior"), " "), fmt::join(values.texts("prior"), " "), values.text("likelihood"),
           values.text("estimator"), values.text("noise"));
  log_info("optimizer  {} lr {} ({}), {} steps, seed {}", values.text("optimizer"), values.text("lr"),
           values.text("lr-schedule"), figures.total_steps, values.text("seed"));
  if (values.text("augment") != "none") {
    log_info("augment    {}: another likelihood than that of the data as they are", values.text("augment"));
  }
  if (figures.start.resumed) log_info("resumed    at step {}", figures.first_step);
}

/// Warnings and news about a run that continues.
void log_resumption(const Start& start, const OptionValues& given, const Checkpoint& checkpoint, const Machine& machine,
                    std::int64_t total_steps) {
  const OptionValues recorded = from_ini(checkpoint.config(), "the recorded configuration");
  if (given.given("epochs") || given.given("steps")) {
    if (recorded.texts("epochs") != start.values.texts("epochs") ||
        recorded.texts("steps") != start.values.texts("steps")) {
      log_info(
          "the run now ends after {} steps: the learning-rate schedule and the KL warm-up are planned anew for that "
          "horizon",
          total_steps);
    }
  }
  const std::int64_t threads = checkpoint.integer("threads");
  if (threads != machine.threads) {
    log_warning("the run so far used {} threads a rank and goes on with {}: results agree to rounding, not bit for bit",
                threads, machine.threads);
  }
}

/// Two checkpoints must fit, the one before being kept until the next is whole: better known now than after hours.
void require_space(const RunState& state, const RunIdentity& identity, const fs::path& directory) {
  std::uintmax_t bytes = 0;
  for (const ArrayView& array : take_snapshot(state, identity).contents.arrays) bytes += array.bytes();
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (error || space.available >= 2 * bytes) return;
  throw StorageError(fmt::format(
      "{} has {:.1f} MB free, and two checkpoints of this run need {:.1f} MB; free some, or give another --out",
      directory.string(), static_cast<double>(space.available) / 1e6, 2e-6 * static_cast<double>(bytes)));
}

nlohmann::json summary(const RunState& state, Outcome outcome, const fs::path& directory) {
  const auto last = [&](const char* column) {
    const auto& values = state.history.column(column);
    return values.empty() ? std::nan("") : values.back();
  };
  return {{"outcome", outcome == Outcome::finished ? "finished" : "stopped"},
          {"step", state.step},
          {"epoch", state.epoch},
          {"checkpoint", (directory / checkpoint_name(state.step)).string()},
          {"elbo", last("history/elbo")},
          {"objective", last("history/objective")},
          {"expected_log_likelihood", last("history/expected_log_likelihood")},
          {"kl", last("history/kl")},
          {"seconds", last("history/seconds")}};
}

int conclude(const CommandContext& context, const CommandLine& line, const RunState& state, Outcome outcome,
             const fs::path& directory, nlohmann::json extra) {
  nlohmann::json result = summary(state, outcome, directory);
  result.update(extra);
  const int exit_code = static_cast<int>(outcome == Outcome::finished ? ExitCode::done : ExitCode::stopped);
  nlohmann::json status = result;
  status["status"] = result["outcome"];
  status["exit_code"] = exit_code;
  write_status(context.session, status);
  if (line.has("json")) print_json(context.session, result);
  return exit_code;
}

}  // namespace

int run_train(const CommandContext& context) {
  MpiSession& session = context.session;
  const auto names = all_training_names();
  const CommandLine line = parse_command_line(context.arguments, train_extras(), names);
  if (line.help) {
    print_help(session, "credence train [options]\n\n" + describe_options(train_extras(), names));
    return 0;
  }
  const auto control = make_control_communicator(line.training, session);
  require_same_options(line, *control);
  require(!line.training.given("epochs") || !line.training.given("steps"), "give --epochs or --steps, not both");
  const Machine machine = choose_machine(line.training, session, *control);
  Start start = begin(line, session, *control);

  std::unique_ptr<DataSource> source;
  collectively(*control, [&] { source = open_data(start.values.text("data"), Split::train); });
  resolve(start.values, source->spec(), machine, session.size());
  const SamplingPlan plan(static_cast<std::uint64_t>(start.values.integer("seed")), source->size(),
                          start.values.integer("batch"), static_cast<int>(start.values.integer("shards")));
  const std::int64_t total_steps = planned_steps(start.values, plan);

  Model model = build_model(start.values, source->spec(), machine, {start.resumed, start.checkpoint.get()});
  collectively(*control, [&] { require_known_groups(model.network->module(), *source); });
  const Augmentation augmentation = Augmentation::parse(start.values.text("augment"));
  const Objective objective{
      .dataset_size = source->size(),
      .kl_weight = start.values.number("kl-weight"),
      .temperature = start.values.number("temperature"),
      .warmup_steps = std::llround(start.values.number("kl-warmup") * static_cast<double>(total_steps)),
      .is_bound = !augmentation.enabled()};
  Optimizer optimizer(*model.posterior, optimizer_options(start.values, objective));
  RunIdentity identity{.config = to_ini(start.values, false),
                       .seed = static_cast<std::uint64_t>(start.values.integer("seed")),
                       .shards = plan.shards(),
                       .dataset_size = source->size(),
                       .dataset_digest = source->digest(),
                       .world_size = session.size(),
                       .threads = machine.threads,
                       .bound = describe_bound(model.posterior->plan()),
                       .examples = source->spec()};
  if (is_generative(model.likelihood)) {
    identity.bound += "; an example's log likelihood is its own bound over its latent variables";
  }
  if (augmentation.enabled()) identity.bound = "none: augmentation is another likelihood than that of the data";

  RunState state{*model.network, *model.posterior, optimizer, {}, 0, 0.0, false};
  collectively(*control, [&] {
    if (start.checkpoint) restore(*start.checkpoint, identity, state);
  });
  broadcast_state(state, *control);
  if (start.checkpoint) {
    log_resumption(start, line.training, *start.checkpoint, machine, total_steps);
    log_info("continuing from {}", start.checkpoint->file().string());
  }
  if (start.resumed && state.step >= total_steps) {
    log_info("the run is finished: {} of {} steps are done; more --epochs or --steps continue it", state.step,
             total_steps);
    state.finished = true;
    return conclude(context, line, state, Outcome::finished, start.directory, nlohmann::json::object());
  }
  start.checkpoint.reset();
  const auto communicator = make_training_communicator(start.values, machine, session);
  const auto estimator = build_estimator(start.values, machine, model, *communicator);
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    require_space(state, identity, start.directory);
    write_text_file(start.directory / "config.ini", to_ini(start.values, true));
  });
  write_status(session, {{"status", "running"},
                         {"host", host_name()},
                         {"ranks", session.size()},
                         {"first_step", state.step},
                         {"total_steps", total_steps}});

  Loader loader(*source, plan,
                {.first_step = state.step,
                 .first_shard = estimator->first_shard(),
                 .shard_count = estimator->local_shards(),
                 .augmentation = augmentation,
                 .seed = identity.seed});
  const double steps_per_epoch = static_cast<double>(source->size()) / static_cast<double>(plan.batch());
  const std::int64_t every = start.values.integer("checkpoint-every");
  require(every >= 0, "--checkpoint-every must not be negative, not {}", every);
  const std::int64_t keep = start.values.integer("keep");
  require(keep >= 2, "--keep must be at least 2, so that a damaged checkpoint has one before it, not {}", keep);
  const TrainingOptions options{
      .directory = start.directory,
      .total_steps = total_steps,
      .checkpoint_every = every > 0 ? every : std::max<std::int64_t>(std::llround(steps_per_epoch), 1),
      .keep = static_cast<int>(keep),
      .stop_after = start.values.integer("stop-after"),
      .objective = objective,
      .schedule = parse_schedule(start.values.text("lr-schedule")),
      .lr_warmup_steps = std::llround(start.values.number("lr-warmup") * steps_per_epoch),
      .collection = collection_of(start.values, model, total_steps, steps_per_epoch),
      .laplace = laplace_of(start.values, model, machine)};
  Progress progress({.mode = start.values.text("progress"),
                     .log_every = start.values.integer("log-every"),
                     .batch = plan.batch(),
                     .dataset_size = source->size(),
                     .epochs = plan.epochs(total_steps),
                     .classes = is_classification(model.likelihood),
                     .quiet = session.rank() != 0});
  log_start_table(
      {start, machine, session, *source, model, state.step, total_steps, start.values.text("reduction") == "tree"},
      *control);
  if (!estimator->remark().empty()) log_info("estimator  {}", estimator->remark());

  const Outcome outcome = train({*source, model.likelihood, plan, loader, *estimator, *communicator}, options, identity,
                                state, [&](const StepReport& report) { progress(report); });
  progress.finish();
  if (outcome == Outcome::stopped) {
    log_info("stopped on request at step {} of {}: checkpoint written; run the same command to continue", state.step,
             total_steps);
  } else {
    log_info("finished: {}", (start.directory / checkpoint_name(state.step)).string());
  }
  const Traffic& traffic = communicator->traffic();
  return conclude(context, line, state, outcome, start.directory,
                  {{"bytes_sent", traffic.bytes_sent}, {"shards_per_rank", estimator->local_shards()}});
}

}  // namespace credence
