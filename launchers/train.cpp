#include "credence/training/train.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "agreement.h"
#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/context.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/data/bad_records.h"
#include "credence/estimators/curvature.h"
#include "credence/kernels/page_locked.h"
#include "credence/networks/hierarchical_groups.h"
#include "credence/networks/torchscript.h"
#include "credence/training/dealt_update.h"
#include "memory.h"
#include "progress.h"
#include "run_report.h"
#include "run_start.h"

namespace credence {
namespace {

const std::vector<CommandOption>& train_extras() {
  static const std::vector<CommandOption> extras = {
      {"out", "run directory: a run in it is continued (default runs/DATA-NETWORK)"},
      {"resume", "directory or checkpoint to continue from, where it is not the one in --out"},
      {"overwrite", "start anew, even where --out holds a run", true},
      {"json", "one JSON object about the run as last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

bool any_family(const Model& model, Family::Kind kind) {
  const auto& families = model.posterior->plan().families;
  return std::any_of(families.begin(), families.end(), [&](const Family& family) { return family.kind == kind; });
}

std::optional<TrainingOptions::Collection> collection_of(const OptionValues& values, const Model& model,
                                                         std::int64_t total_steps, double steps_per_epoch) {
  if (!any_family(model, Family::Kind::swag)) return std::nullopt;
  const double start = values.number("swag-start");
  const bool given = !values.text("swag-every").empty();
  const std::int64_t every =
      given ? values.integer("swag-every") : std::max<std::int64_t>(std::llround(steps_per_epoch), 1);
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
  const double prior_weight = values.number("kl-weight");
  require(
      prior_weight > 0.0,
      "--kl-weight 0 leaves no prior, and --posterior laplace needs one; give a small weight, or --posterior point");
  return LaplaceOptions{.prior_weight = prior_weight,
                        .fit_precision = precision == known[0],
                        .parts = static_cast<int>(values.integer("shards")),
                        .stage_through_host = machine.device.is_cuda() && !machine.nccl};
}

std::string bound_of(const Model& model, const Augmentation& augmentation) {
  if (augmentation.enabled()) return "none: augmentation is another likelihood than that of the data";
  if (const std::string altered = describe_alteration(model.likelihood); !altered.empty()) {
    return fmt::format("none: {} is another likelihood than that of the data", altered);
  }
  const std::string bound = describe_bound(model.posterior->plan());
  if (!is_generative(model.likelihood)) return bound;
  return bound + "; an example's log likelihood is its own bound over its latent variables";
}

struct Horizon {
  const SamplingPlan& plan;
  std::int64_t total_steps;
};

/// Without what is fitted at the end.
TrainingOptions training_options(const Start& start, const Objective& objective, const Model& model,
                                 const Horizon& horizon) {
  const OptionValues& values = start.values;
  const double steps_per_epoch =
      static_cast<double>(horizon.plan.examples()) / static_cast<double>(horizon.plan.batch());
  const std::int64_t every = values.integer("checkpoint-every");
  return {.directory = start.directory,
          .total_steps = horizon.total_steps,
          .checkpoint_every = every > 0 ? every : std::max<std::int64_t>(std::llround(steps_per_epoch), 1),
          .keep = static_cast<int>(values.integer("keep")),
          .stop_after = values.integer("stop-after"),
          .objective = objective,
          .schedule = parse_schedule(values.text("lr-schedule")),
          .lr_warmup_steps = std::llround(values.number("lr-warmup") * steps_per_epoch),
          .collection = collection_of(values, model, horizon.total_steps, steps_per_epoch),
          .laplace = std::nullopt};
}

/// Whether nothing is left to do: every step is done, and the checkpoint that says so is in the directory. Collective.
bool is_finished(const Start& start, const RunState& state, std::int64_t total_steps, Communicator& control) {
  if (!start.resumed || state.step < total_steps) return false;
  bool recorded = false;
  if (start.checkpoint) {
    std::error_code ignored;
    const auto& attributes = start.checkpoint->attributes();
    const auto finished = attributes.find("finished");
    recorded = finished != attributes.end() && finished->second == Attribute(std::int64_t{1}) &&
               std::filesystem::equivalent(start.checkpoint->file(),
                                           start.directory / start.checkpoint->file().filename(), ignored);
  }
  return control.any(recorded);
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
  Machine machine = choose_machine(line.training, session, *control);
  Start start = begin_run(line, session, *control);
  settle_backend(start.values, machine);

  set_phase("reading of data");
  std::unique_ptr<DataSource> source;
  collectively(*control, [&] {
    work_aside(*control, [&] {
      source = open_data(start.values.text("data"), Split::train, data_options(start.values, machine));
    });
  });
  require_same_data(*source, start.values.text("data"), *control);
  leave_out_bad_records(*source, start.values.integer("max-bad-records"),
                        std::max(machine.threads, machine.loader_threads), *control);
  resolve(start.values, source->spec(), machine, session.size());
  const SamplingPlan plan(static_cast<std::uint64_t>(start.values.integer("seed")), source->size(),
                          start.values.integer("batch"), static_cast<int>(start.values.integer("shards")));
  const std::int64_t total_steps = planned_steps(start.values, plan);

  set_phase("start of training");
  Model model;
  collectively(*control, [&] {
    model = build_model(start.values, source->spec(), machine, {start.resumed, start.checkpoint.get()});
  });
  require_same_everywhere(start.values.text("network"),
                          fmt::format("content with digest {}", script_digest(model.network->module())), *control);
  collectively(*control, [&] { require_known_groups(model.network->module(), *source); });
  const Augmentation augmentation = Augmentation::parse(start.values.text("augment"));
  const Objective objective{
      .dataset_size = source->size(),
      .kl_weight = start.values.number("kl-weight"),
      .temperature = start.values.number("temperature"),
      .warmup_steps = std::llround(start.values.number("kl-warmup") * static_cast<double>(total_steps)),
      .is_bound = !augmentation.enabled() && describe_alteration(model.likelihood).empty()};
  require_entropy_to_temper(objective, model.posterior->plan());
  Optimizer optimizer(*model.posterior, optimizer_options(start.values, objective, model));
  const RunIdentity identity{.config = to_ini(start.values, false),
                             .seed = static_cast<std::uint64_t>(start.values.integer("seed")),
                             .shards = plan.shards(),
                             .dataset_size = source->size(),
                             .dataset_digest = source->digest(),
                             .world_size = session.size(),
                             .threads = machine.threads,
                             .bound = bound_of(model, augmentation),
                             .examples = source->spec()};
  RunState state{*model.network, *model.posterior, optimizer, {}, 0, 0.0, false};
  collectively(*control, [&] {
    if (start.checkpoint) work_aside(*control, [&] { restore(*start.checkpoint, identity, state); });
  });
  broadcast_state(state, *control);
  if (start.checkpoint) {
    log_resumption(start, line.training, *start.checkpoint, machine, total_steps);
    log_info("continuing from {}", start.checkpoint->file().string());
  }
  if (is_finished(start, state, total_steps, *control)) {
    log_info("the run is finished: {} of {} steps are done; more --epochs or --steps continue it", state.step,
             total_steps);
    state.finished = true;
    set_status_directory(start.directory.string());
    return conclude(context, line, state, Outcome::finished, start.directory, nlohmann::json::object());
  }
  start.checkpoint.reset();
  const auto communicator = make_training_communicator(start.values, machine, session);
  const int members = model.posterior->plan().members;
  const bool dealt = deals_members(start.values, model, *source, session.size());
  if (dealt) model.posterior->work_on(members_of_rank(members, session.size(), session.rank()));
  const auto estimator = build_estimator(start.values, machine, model, *communicator);
  const auto page_locked = machine.device.is_cuda() ? kernels::page_locked_memory(machine.device.index()) : nullptr;
  TrainingOptions options = training_options(start, objective, model, {plan, total_steps});
  options.laplace = laplace_of(start.values, model, machine);
  if (start.lock) options.is_directory_lost = [&start] { return start.lock->lost(); };
  options.on_failure = [&session] { tell_failure(session); };
  Progress progress({.mode = start.values.text("progress"),
                     .log_every = start.values.integer("log-every"),
                     .batch = plan.batch(),
                     .dataset_size = source->size(),
                     .epochs = plan.epochs(total_steps),
                     .classes = is_classification(model.likelihood),
                     .first_seconds = state.history.size() > 0 ? state.history.column("history/seconds").back() : 0.0,
                     .quiet = session.rank() != 0});

  collectively(*control, [&] {
    if (session.rank() == 0) require_space(state, identity, start);
  });
  // An error between here and train() is said only once what is read ahead has been read.
  std::optional<Loader> loader(
      std::in_place, *source, plan,
      Loader::Options{.first_step = state.step,
                      .first_shard = estimator->first_shard(),
                      .shard_count = estimator->local_shards(),
                      .threads = machine.loader_threads,
                      .augmentation = augmentation,
                      .seed = identity.seed,
                      .pixel_memory = page_locked ? page_locked.get() : std::pmr::get_default_resource()});
  occupy_directory(start, session, *control);
  write_status(session, {{"status", "running"},
                         {"host", host_name()},
                         {"ranks", session.size()},
                         {"first_step", state.step},
                         {"total_steps", total_steps}});
  log_start_table(
      {start, machine, session, *source, model, state.step, total_steps, start.values.text("reduction") == "tree"},
      *control);
  if (dealt) {
    log_info("ensemble   each rank trains {} of the {} members on whole batches and exchanges no gradients",
             members / session.size(), members);
  }
  if (!estimator->remark().empty()) log_info("estimator  {}", estimator->remark());

  const Outcome outcome = train({*source, model.likelihood, plan, *loader, *estimator, *communicator}, options,
                                identity, state, [&](const StepReport& report) { progress(report); });
  progress.finish();
  work_aside(*control, [&] { loader.reset(); });  // what it reads ahead may still take long
  if (outcome == Outcome::stopped) {
    log_info("stopped on request at step {} of {}: checkpoint written; run the same command to continue", state.step,
             total_steps);
  } else {
    log_info("finished: {}", (start.directory / checkpoint_name(state.step)).string());
  }
  const Traffic& traffic = communicator->traffic();
  return conclude(context, line, state, outcome, start.directory,
                  {{"bytes_sent", traffic.bytes_sent},
                   {"shards_per_rank", estimator->local_shards()},
                   {"peak_memory_bytes", peak_resident_bytes()},
                   {"peak_device_bytes", peak_device_bytes(machine.device)}});
}

}  // namespace credence
