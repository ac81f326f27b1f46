#include <fmt/ranges.h>

#include <algorithm>

#include "assembly.h"
#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/data/bad_records.h"
#include "credence/training/run_state.h"

namespace credence {
namespace {

std::unique_ptr<Checkpoint> find_checkpoint(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return std::make_unique<Checkpoint>(path);
  auto newest = newest_checkpoint(path);
  if (newest == nullptr) throw DataError(fmt::format("{} holds no checkpoint", path));
  return newest;
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
  std::unique_ptr<Checkpoint> found;
  work_aside(control, [&] { found = find_checkpoint(path); });
  OptionValues values = from_ini(found->config(), found->file().string());
  ExampleSpec examples = examples_of(*found);
  Model model = build_model(values, examples, machine, {true, found.get()});
  work_aside(control, [&] { restore_posterior(*found, *model.network, *model.posterior); });
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
