#include <fmt/ranges.h>

#include <algorithm>

#include "agreement.h"
#include "assembly.h"
#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/data/bad_records.h"
#include "credence/training/run_state.h"

namespace credence {
namespace {

/// One file on all ranks: of a run that goes on, or over a network, each may see another one as the newest. Collective.
std::unique_ptr<Checkpoint> open_everywhere(const std::string& path, Communicator& control) {
  std::unique_ptr<Checkpoint> found;
  std::string file = path;
  collectively(control, [&] {
    if (control.rank() != 0 || !std::filesystem::is_directory(path)) return;
    work_aside(control, [&] { found = newest_checkpoint(path); });
    if (found == nullptr) throw DataError(fmt::format("{} holds no checkpoint", path));
    file = found->file().string();
  });
  file = control.broadcast_text(file, 0);
  collectively(control, [&] {
    if (found == nullptr) work_aside(control, [&] { found = std::make_unique<Checkpoint>(file); });
  });
  require_same_everywhere(file, fmt::format("content with digest {}", found->digest()), control);
  return found;
}

}  // namespace

std::unique_ptr<Checkpoint> newest_checkpoint(const std::filesystem::path& directory) {
  CheckpointSearch search = find_newest_checkpoint(directory);
  for (const auto& [file, why] : search.unusable) log_warning("skipping {}: {}", file.string(), why);
  if (search.newest == nullptr && !search.unusable.empty()) {
    throw DataError(fmt::format("none of the {} checkpoints in {} can be used; the newest: {}", search.unusable.size(),
                                directory.string(), search.unusable.front().second));
  }
  return std::move(search.newest);
}

LoadedModel load_model(const std::string& path, const Machine& machine, Communicator& control) {
  LoadedModel loaded{std::move(*open_everywhere(path, control)), {}, {}, {}, {}};
  collectively(control, [&] {
    const Checkpoint& checkpoint = loaded.checkpoint;
    loaded.values = from_ini(checkpoint.config(), checkpoint.file().string());
    loaded.examples = examples_of(checkpoint);
    loaded.model = build_model(loaded.values, loaded.examples, machine, {true, &checkpoint});
    work_aside(control, [&] { restore_posterior(checkpoint, *loaded.model.network, *loaded.model.posterior); });
    loaded.reading = data_options(loaded.values, machine);
    loaded.reading.normalization = loaded.examples.normalization;
    loaded.reading.trained_shape = loaded.examples.input_shape;
  });
  return loaded;
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

std::int64_t leave_out_bad(const OptionValues& line, const LoadedModel& loaded, DataSource& source,
                           Communicator& control) {
  const OptionValues& given = line.given("max-bad-records") ? line : loaded.values;
  return leave_out_bad_records(source, given.integer("max-bad-records"), loaded.reading.threads, control);
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

void choose_predictive(const std::optional<std::string>& given, Posterior& posterior) {
  if (!given) return;
  const std::vector<std::string> known = {"linearized", "sampled"};
  if (*given != known[0] && *given != known[1]) refuse_unknown("predictive", *given, known);
  posterior.set_linearized(*given == known[0]);
}

}  // namespace credence
