// What a run will need, before anything is started.
#include <c10/util/ThreadLocalDebugInfo.h>
#include <malloc.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/text.h"
#include "credence/data/loader.h"
#include "credence/data/sampling.h"
#include "credence/posteriors/complexity.h"
#include "credence/training/dealt_update.h"
#include "credence/training/run_state.h"
#include "memory.h"
#include "run_start.h"

namespace credence {
namespace {

const std::vector<CommandOption>& plan_extras() {
  static const std::vector<CommandOption> extras = {{"ranks", "how many ranks the run will have (default 1)"},
                                                    {"json", "the plan as one JSON object, last line of stdout", true},
                                                    {"help", "this text", true}};
  return extras;
}

/// Examples of a shard in the first trial step.
constexpr std::int64_t kTrialExamples = 4;
/// Steps of a trial: where memory is given back and asked for again, the heap grows in the first few.
constexpr int kTrialSteps = 3;
/// HDF5's own bytes for one array with its digest, about, and for the rest of a file.
constexpr std::int64_t kStructureBytesPerArray = 700;
constexpr std::int64_t kStructureBytes = 8192;

/// What steps take beyond the model, measured with so many examples a shard.
struct Trial {
  std::int64_t peak = 0;          // of tensors, bytes
  std::int64_t kept = 0;          // after the step: sums of gradients
  std::int64_t batches = 0;       // of the loader's ring
  std::int64_t extrapolated = 0;  // what more examples would take
  bool two_sums = false;
  bool rebuilds_noise = false;  // for the update
};

/// Of one example in the loader's ring: decoded images are bytes until they are tensors.
std::int64_t bytes_of_example(const DataSource& source) {
  const ExampleSpec& spec = source.spec();
  const auto numbers = static_cast<std::int64_t>(source.as_images() != nullptr ? 1 : sizeof(float));
  const std::int64_t label = spec.classes > 0 ? 8 : 0;
  return numbers * spec.input_elements() + label + static_cast<std::int64_t>(sizeof(float)) * spec.target_size;
}

/// Some steps of this rank's shards, read as a run reads them, without other ranks.
Trial try_step(const OptionValues& values, const Machine& machine, Model& model, const DataSource& source,
               std::int64_t examples) {
  const auto shards = static_cast<int>(values.integer("shards"));
  const SamplingPlan plan(0, source.size(), examples * shards, shards);
  const Loader::Options reading{.shard_count = shards,
                                .threads = machine.loader_threads,
                                .augmentation = Augmentation::parse(values.text("augment"))};
  Loader loader(source, plan, reading);
  const std::int64_t ring = reading.depth + 1;
  for (std::int64_t batch = 0; batch < ring; ++batch) loader.next();  // once round it, so that all of it is taken
  const auto communicator = make_self_communicator();
  const auto meter = std::make_shared<TensorMeter>(machine.device.type());
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  const auto estimator = build_estimator(values, machine, model, *communicator);
  const auto next = [&] {
    return to_tensors(loader.next(), source.spec(), model.likelihood, model.network->dtype(), model.network->device());
  };
  bool rebuilds_noise = false;
  for (int step = 0; step < kTrialSteps; ++step) {
    estimator->run(step, next, {});
    GradientSum gradient = estimator->gradient();
    add_closed_form_terms(*model.posterior, {1.0, 1.0}, estimator->gradient_multiplier(), gradient);
    rebuilds_noise = !gradient.scaled.defined();
  }
  return {.peak = meter->peak(),
          .kept = meter->live(),
          .batches = ring * examples * bytes_of_example(source),
          .two_sums = estimator->gradient().scaled.defined(),
          .rebuilds_noise = rebuilds_noise};
}

std::int64_t bytes_of(const torch::Tensor& tensor) {
  return tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0;
}

std::int64_t checkpoint_bytes(const RunState& state, std::int64_t total_steps) {
  const Snapshot snapshot = take_snapshot(state, {});
  std::int64_t bytes = kStructureBytes;
  for (const ArrayView& array : snapshot.contents.arrays) {
    bytes += static_cast<std::int64_t>(array.bytes()) + kStructureBytesPerArray;
  }
  const auto columns = static_cast<std::int64_t>(state.history.columns().size());
  return bytes + 8 * columns * total_steps;
}

struct Figures {
  std::string data, network;
  std::vector<std::int64_t> input_shape;
  std::int64_t examples;
  std::int64_t ranks, shards, examples_per_shard, total_steps;
  std::int64_t parameters, gaussian;
  std::int64_t libraries, posterior, optimizer, noise, gradients, activations, batches;  // bytes a rank
  std::int64_t staging;  // of the host in a step, beside the device
  std::int64_t sent, checkpoint, saving;
  bool two_sums, extrapolated, dealt, device;

  std::int64_t arenas() const { return posterior + optimizer + noise + gradients + activations; }
  std::int64_t device_memory() const { return device ? arenas() : 0; }
  std::int64_t host_memory() const { return libraries + staging + batches + (device ? 0 : arenas()); }
};

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

void print(const Figures& f) {
  fmt::print("{}: {} examples of [{}]; network {}\n", f.data, f.examples, fmt::join(f.input_shape, ", "), f.network);
  fmt::print("{} parameters, {} of them Gaussian; {} rank{}, {} shard{}, {} examples each; {} steps\n\n", f.parameters,
             f.gaussian, f.ranks, f.ranks == 1 ? "" : "s", f.shards, f.shards == 1 ? "" : "s", f.examples_per_shard,
             f.total_steps);
  const auto row = [](const char* name, std::int64_t bytes) { fmt::print("{:<44} {:>14}\n", name, megabytes(bytes)); };
  fmt::print("memory of a rank{}\n", f.device ? ", on its device" : "");
  row("  posterior: means, scales, the draw", f.posterior);
  row("  optimizer's moments", f.optimizer);
  row("  noise kept from a draw to its update", f.noise);
  row("  sums of gradients", f.gradients);
  row(f.extrapolated ? "  activations of one shard, from fewer" : "  activations of one shard", f.activations);
  if (f.device) {
    row("  in all", f.device_memory());
    fmt::print("memory of a rank, on its host\n");
    row("  buffers of a step", f.staging);
  }
  row("  libraries and data", f.libraries);
  row("  batches read ahead", f.batches);
  row("  in all, between checkpoints", f.host_memory());
  row("  more on rank 0 once it has saved", f.saving);
  row("sent by a rank in a step", f.sent);
  row("checkpoint at the end", f.checkpoint);
}

nlohmann::json to_json(const Figures& f) {
  return {{"data", f.data},
          {"network", f.network},
          {"input_shape", f.input_shape},
          {"examples", f.examples},
          {"parameters", f.parameters},
          {"gaussian_parameters", f.gaussian},
          {"ranks", f.ranks},
          {"shards", f.shards},
          {"examples_per_shard", f.examples_per_shard},
          {"steps", f.total_steps},
          {"memory_bytes", f.host_memory()},
          {"memory_bytes_of_rank_0", f.host_memory() + f.saving},
          {"device_memory_bytes", f.device_memory()},
          {"memory",
           {{"libraries", f.libraries},
            {"posterior", f.posterior},
            {"optimizer", f.optimizer},
            {"noise", f.noise},
            {"gradients", f.gradients},
            {"activations", f.activations},
            {"staging", f.staging},
            {"batches", f.batches},
            {"saving", f.saving}}},
          {"bytes_sent_per_step", f.sent},
          {"checkpoint_bytes", f.checkpoint}};
}

/// Bytes that a rank sends in a step: 2 (R - 1) / R of what is summed.
std::int64_t bytes_sent(const OptionValues& values, const Model& model, const Figures& f) {
  const auto buffers = bytes_of(model.network->buffer_arena());
  const auto sums = static_cast<std::int64_t>(model.posterior->segments().size() * sizeof(kernels::SegmentSums));
  const std::int64_t gradient = f.dealt ? sums
                                : values.text("estimator") == "score"
                                    ? 4 * f.shards * values.integer("weight-samples")
                                    : (f.two_sums ? 2 : 1) * bytes_of(model.posterior->mean());
  return 2 * (f.ranks - 1) * (gradient + buffers) / f.ranks;
}

/// A trial with as many examples as a shard has, where they fit into half of the memory that is free; else with few,
/// and what more of them take by the growth from half as many.
Trial try_shards(const OptionValues& values, const Machine& machine, Model& model, const DataSource& source,
                 const Figures& f) {
  const std::int64_t few = std::min(f.examples_per_shard, kTrialExamples);
  Trial trial = try_step(values, machine, model, source, few);
  if (few == f.examples_per_shard) return trial;
  const std::int64_t half = few / 2;
  const Trial smaller = try_step(values, machine, model, source, half);
  const double growth = static_cast<double>(trial.peak - smaller.peak) / static_cast<double>(few - half);
  const auto more = static_cast<std::int64_t>(growth * static_cast<double>(f.examples_per_shard - few));
  malloc_trim(0);  // the trial that counts begins with a heap like a run's
  if (2 * more < available_bytes()) return try_step(values, machine, model, source, f.examples_per_shard);
  trial.extrapolated = more;
  return trial;
}

/// What updates keep of their noise, of a rank's share of the large tensors.
std::int64_t kept_noise(Posterior& posterior, int ranks) {
  std::vector<kernels::Segment> segments(posterior.segments().begin(), posterior.segments().end());
  for (kernels::Segment& segment : segments) {
    const std::int64_t head = UpdateShare::head_elements(segment, ranks);
    segment.count -= head - head / ranks;
  }
  return posterior.kernels().kept_bytes(segments);
}

/// What a step adds to the memory of a rank.
void add_step(const Trial& trial, Figures& f) {
  f.gradients = trial.kept;
  const std::int64_t host = peak_resident_bytes() - f.libraries - trial.batches;
  // On the host, what the libraries and the heap take for themselves in a pass is among the activations.
  f.activations = (f.device ? trial.peak - trial.kept
                            : std::max(trial.peak - trial.kept, host - f.posterior - f.optimizer - f.gradients)) +
                  trial.extrapolated;
  f.staging = f.device ? std::max<std::int64_t>(host, 0) : 0;
  f.two_sums = trial.two_sums;
  f.extrapolated = trial.extrapolated > 0;
}

Figures plan_run(OptionValues values, const Machine& machine, const DataSource& source, int ranks) {
  resolve(values, source.spec(), machine, ranks);
  const SamplingPlan plan(static_cast<std::uint64_t>(values.integer("seed")), source.size(), values.integer("batch"),
                          static_cast<int>(values.integer("shards")));
  Figures f{};
  f.data = values.text("data");
  f.network = values.text("network");
  f.input_shape = source.spec().input_shape;
  f.examples = source.size();
  f.device = machine.device.is_cuda();
  f.ranks = ranks;
  f.shards = plan.shards();
  f.examples_per_shard = plan.shard_size();
  f.total_steps = planned_steps(values, plan);
  f.libraries = resident_bytes();

  Model model = build_model(values, source.spec(), machine, {});
  Optimizer optimizer(*model.posterior, optimizer_options(values, {.dataset_size = source.size()}, model));
  const Posterior& posterior = *model.posterior;
  f.parameters = model.network->layout().parameters();
  for (const auto& segment : posterior.segments()) f.gaussian += segment.gaussian ? segment.count : 0;
  f.posterior = bytes_of(posterior.mean()) + bytes_of(posterior.raw_scale()) + bytes_of(posterior.kept()) +
                (posterior.is_random() ? bytes_of(posterior.weights()) : 0);
  for (const auto& [name, arena] : optimizer.state()) f.optimizer += bytes_of(arena);

  f.dealt = deals_members(values, model, source, ranks);
  if (f.dealt) model.posterior->work_on(members_of_rank(posterior.plan().members, ranks, 0));
  // As many shards as a rank runs; antithetic noise needs pairs.
  const std::int64_t local = f.dealt ? f.shards : f.shards / ranks;
  values.set("shards",
             {std::to_string(values.text("noise") == "antithetic" ? std::max<std::int64_t>(local, 2) : local)});
  const Trial trial = try_shards(values, machine, model, source, f);
  add_step(trial, f);
  if (trial.rebuilds_noise) f.noise = kept_noise(*model.posterior, f.dealt ? 1 : ranks);
  f.batches = (Loader::Options{}.depth + 1) * f.examples_per_shard * bytes_of_example(source);
  model.posterior->work_on({0, posterior.plan().members});
  f.sent = bytes_sent(values, model, f);
  f.checkpoint = checkpoint_bytes({*model.network, *model.posterior, optimizer, {}, 0, 0.0, false}, f.total_steps);
  f.saving = f.checkpoint + bytes_of(posterior.raw_scale());  // a copy, and standard deviations while it is made
  return f;
}

}  // namespace

int run_plan(const CommandContext& context) {
  const auto names = all_training_names();
  const CommandLine line = parse_command_line(context.arguments, plan_extras(), names);
  if (line.help) {
    print_help(context.session,
               "credence plan [options of train] [--ranks R]\n\nWhat a run will need: parameters, memory by kind, "
               "bytes on the network, size of a checkpoint. Tries one small step here.\n\n" +
                   describe_options(plan_extras(), names));
    return 0;
  }
  require(context.session.size() == 1, "plan is started alone; --ranks tells it how many ranks the run will have");
  const std::int64_t ranks = parse_integer(line.text("ranks").value_or("1"), "--ranks");
  require(ranks >= 1 && ranks <= 1'000'000, "--ranks must be between 1 and 1000000, not {}", ranks);
  require(!line.training.given("epochs") || !line.training.given("steps"), "give --epochs or --steps, not both");
  const auto control = make_control_communicator(line.training, context.session);
  Machine machine = choose_machine(line.training, context.session, *control);
  // As ranks will that have a device each.
  machine.nccl = ranks > 1 && machine.device.is_cuda() && line.training.text("backend") != "mpi" && nccl_available();
  settle_backend(line.training, machine);
  const auto source = open_data(line.training.text("data"), Split::train, data_options(line.training, machine));
  const Figures figures = plan_run(line.training, machine, *source, static_cast<int>(ranks));
  line.has("json") ? print_json(context.session, to_json(figures)) : print(figures);
  return 0;
}

}  // namespace credence
