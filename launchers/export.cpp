#include <fmt/ranges.h>

#include <algorithm>
#include <deque>
#include <regex>

#include "agreement.h"
#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/safetensors.h"
#include "credence/data/open.h"
#include "credence/posteriors/sparsity.h"
#include "credence/prediction/inference_data.h"
#include "credence/priors/rules.h"
#include "credence/training/run_arrays.h"

namespace credence {
namespace {

const std::vector<CommandOption>& export_extras() {
  static const std::vector<CommandOption> extras = {
      {"file", "what to write", false, true},
      {"checkpoint", "checkpoint file, or run directory (its newest good one)"},
      {"to", "netcdf: draws of weights and of targets as ArviZ InferenceData | safetensors: means and scales"},
      {"prune", "safetensors: zeros for the weights that sparse and spike-slab do not need", true},
      {"draws", "netcdf: posterior draws (default 100)"},
      {"tensors", "REGEX: only tensors whose name it matches (default all)"},
      {"split", "netcdf: train | test, the examples whose targets are drawn (default test)"},
      {"json", "what was written as one JSON object, last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

constexpr std::string_view kTrainingOptions[] = {"data",   "threads", "max-bad-records",
                                                 "device", "backend", "timeout-seconds"};

/// A state dict: means under the weights' own names, what else the posterior has of a tensor as NAME.KIND, buffers.
class StateDict {
 public:
  StateDict(const Model& model, const std::optional<std::string>& tensors) {
    if (tensors) chosen_ = compile_rule(*tensors);
    const Posterior& posterior = *model.posterior;
    const torch::Tensor means = posterior.mean_weights();
    const torch::Tensor scales = posterior.scales();
    for (std::size_t i = 0; i < posterior.layout().slots.size(); ++i) {
      const Slot& slot = posterior.layout().slots[i];
      const auto index = static_cast<int>(i);
      if (slot.array.empty()) {
        add(slot.name, slot.name, posterior.view(means, index));
      } else {
        add(slot.name, slot.name + "." + slot.array, posterior.view(posterior.mean(), index));
      }
      if (!posterior.segments()[i].gaussian) continue;
      add(slot.name, slot.name + (slot.array.empty() ? "" : "." + slot.array) + ".scale",
          posterior.view(scales, index));
    }
    const auto& kept = posterior.plan().kept.slots;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      add(kept[i].name, kept[i].name + "." + kept[i].array, posterior.kept_view(static_cast<int>(i)));
    }
    for (const auto& [name, buffer] : model.network->float_buffers()) add(name, name, buffer);
    for (const auto& [name, buffer] : model.network->integer_buffers()) add(name, name, buffer);
    require(!arrays_.empty(), "--tensors '{}' matches no tensor of the network; its tensors are named like {}",
            tensors.value_or(""), posterior.layout().slots.front().name);
  }
  const std::vector<ArrayView>& arrays() const { return arrays_; }

 private:
  void add(const std::string& tensor, const std::string& name, const torch::Tensor& values) {
    if (chosen_ && !std::regex_search(tensor, *chosen_)) return;
    const torch::Tensor& host = owned_.emplace_back(stored_tensor(values));
    arrays_.push_back({name, dtype_of_tensor(host), host.sizes().vec(), host.data_ptr()});
  }

  std::optional<std::regex> chosen_;
  std::deque<torch::Tensor> owned_;
  std::vector<ArrayView> arrays_;
};

/// On one rank.
void export_safetensors(const std::string& file, const CommandLine& line, LoadedModel& loaded, Communicator& control) {
  for (const char* option : {"draws", "split"}) {
    require(!line.has(option), "--{} is an option of --to netcdf: a state dict holds means and scales, no draws",
            option);
  }
  for (const char* option : {"data", "max-bad-records"}) {
    require(!line.training.given(option), "--{} is an option of --to netcdf: a state dict holds no data", option);
  }
  // "pt": names and layouts are those of a PyTorch state dict.
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"producer", "credence"},
                                                 {"step", fmt::format("{}", loaded.checkpoint.integer("step"))},
                                                 {"network", loaded.values.text("network")}};
  if (line.has("prune")) {
    const Sparsity sparsity = prune(*loaded.model.posterior);
    require(!sparsity.tensors.empty(),
            "--prune asks the posterior which weights it does not need, and only sparse and spike-slab can say");
    metadata["sparsity"] = fmt::format("{}", sparsity.share());
    metadata["compression"] = fmt::format("{}", sparsity.compression());
  }
  const StateDict dict(loaded.model, line.text("tensors"));
  work_aside(control, [&] { write_safetensors(file, metadata, dict.arrays()); });
}

void export_netcdf(const std::string& file, const CommandLine& line, LoadedModel& loaded, Communicator& control) {
  require(!line.has("prune"), "--prune is an option of --to safetensors");
  std::unique_ptr<DataSource> source;
  const std::string spec = line.training.given("data") ? line.training.text("data") : loaded.values.text("data");
  collectively(control, [&] {
    work_aside(control, [&] {
      source = open_for(loaded, spec, parse_split(line.text("split").value_or("test")));
      require_same_targets(source->spec(), loaded.examples, spec);
    });
  });
  require_same_data(*source, spec, control);
  leave_out_bad(line.training, loaded, *source, control);
  Model& model = loaded.model;
  write_inference_data(
      file, {*model.network, *model.posterior, model.likelihood, *source, control},
      {.draws = parse_draws(line, "draws", 100),
       .seed = static_cast<std::uint64_t>(loaded.values.integer("seed")),
       .tensors = line.text("tensors"),
       .attributes = {{"step", loaded.checkpoint.integer("step")},
                      {"network", loaded.values.text("network")},
                      {"posterior", fmt::format("{}", fmt::join(loaded.values.texts("posterior"), " "))},
                      {"data", spec}}});
}

}  // namespace

int run_export(const CommandContext& context) {
  MpiSession& session = context.session;
  const CommandLine line = parse_command_line(context.arguments, export_extras(), kTrainingOptions);
  if (line.help) {
    print_help(session, "credence export FILE [options]\n\n" + describe_options(export_extras(), kTrainingOptions));
    return 0;
  }
  require(line.text("checkpoint").has_value(), "export needs --checkpoint DIR or FILE");
  const std::vector<std::string> formats = {"netcdf", "safetensors"};
  require(line.has("to"), "export needs --to {}", fmt::join(formats, " or --to "));
  const std::string format = *line.text("to");
  if (std::ranges::find(formats, format) == formats.end()) refuse_unknown("format", format, formats);
  require(line.has("file") && line.extras.at("file").size() == 1, "export needs the one file to write");
  const std::string file = *line.text("file");

  const auto control = make_control_communicator(line.training, session);
  const Machine machine = choose_machine(line.training, session, *control);
  const auto loaded = std::make_unique<LoadedModel>(load_model(*line.text("checkpoint"), machine, *control));
  loaded->reading.threads = machine.threads;  // nothing else needs them meanwhile
  if (format == "netcdf") {
    export_netcdf(file, line, *loaded, *control);
  } else {
    collectively(*control, [&] {
      if (session.rank() == 0) export_safetensors(file, line, *loaded, *control);
    });
  }
  log_info("exported: {}", file);
  if (line.has("json")) {
    print_json(session, {{"file", file},
                         {"format", format},
                         {"checkpoint", loaded->checkpoint.file().string()},
                         {"step", loaded->checkpoint.integer("step")}});
  }
  return 0;
}

}  // namespace credence
