#include "credence/prediction/predict.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <tuple>
#include <utility>

#include "agreement.h"
#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/data/inputs.h"
#include "credence/data/open.h"
#include "predict_report.h"

namespace credence {
namespace {

const std::vector<CommandOption>& predict_extras() {
  static const std::vector<CommandOption> extras = {
      {"input",
       "tables (csv), idx files of images, plain or gzip, JPEG and PNG files, or folders of these; no labels needed",
       false, true},
      {"checkpoint", "checkpoint file, or run directory (its newest good one)"},
      {"samples", "posterior draws (default 32)"},
      {"predictive", std::string(kPredictiveHelp)},
      {"split", "with --data: train | test (default test)"},
      {"examples",
       "with --data: A-B, the examples from A to B, counted from 0 without bad records that are left out (default "
       "all)"},
      {"output", "table of all numbers, to this csv file instead of stdout"},
      {"json", "everything as one JSON object, last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

constexpr std::string_view kTrainingOptions[] = {"data",   "threads", "max-bad-records",
                                                 "device", "backend", "timeout-seconds"};

std::pair<std::int64_t, std::int64_t> parse_examples(const std::string& text, std::int64_t size) {
  const auto dash = text.find('-');
  const std::int64_t first = parse_integer(text.substr(0, dash), "--examples A-B");
  const std::int64_t last = dash == std::string::npos ? first : parse_integer(text.substr(dash + 1), "--examples A-B");
  require(first <= last && last < size, "--examples {} must lie within the {} examples of the data, from 0 to {}", text,
          size, size - 1);
  return {first, last - first + 1};
}

/// Of a dataset, without bad records that are left out.
void choose_examples(const std::optional<std::string>& examples, NamedInput& dataset) {
  dataset.count = dataset.source->size();
  if (examples) std::tie(dataset.first, dataset.count) = parse_examples(*examples, dataset.count);
}

NamedInput open_dataset(const CommandLine& line, const LoadedModel& loaded) {
  const std::string spec = line.training.text("data");
  const Split split = parse_split(line.text("split").value_or("test"));
  return {fmt::format("{} ({})", spec, name_of(split)), open_for(loaded, spec, split)};
}

/// All images of the inputs as one dataset, after the tables and idx files.
std::vector<NamedInput> open_files(const std::vector<std::string>& inputs, const LoadedModel& loaded) {
  std::vector<NamedInput> all;
  std::vector<std::filesystem::path> images;
  for (const std::string& input : inputs) {
    const auto files = image_files(input);
    images.insert(images.end(), files.begin(), files.end());
    if (!files.empty()) continue;
    NamedInput named{input, open_inputs(input, loaded.examples)};
    named.count = named.source->size();
    all.push_back(std::move(named));
  }
  if (images.empty()) return all;
  NamedInput named{"images", open_image_files(images, loaded.examples, loaded.reading)};
  named.count = named.source->size();
  named.files.assign(images.begin(), images.end());
  all.push_back(std::move(named));
  return all;
}

std::vector<NamedInput> open_all(const CommandLine& line, const LoadedModel& loaded) {
  std::vector<NamedInput> all;
  if (line.has("input")) all = open_files(line.extras.at("input"), loaded);
  if (line.training.given("data")) all.push_back(open_dataset(line, loaded));
  return all;
}

/// DataError where ranks read other inputs than rank 0. Collective.
void require_same_inputs(const std::vector<NamedInput>& inputs, Communicator& control) {
  std::vector<std::string> contents;
  for (const NamedInput& input : inputs) {
    contents.push_back(fmt::format("{}: {}", input.name, describe_content(*input.source)));
  }
  require_same_everywhere("what to predict", fmt::format("{}", fmt::join(contents, ", ")), control);
}

void require_inputs(const CommandLine& line) {
  require(line.text("checkpoint").has_value(), "predict needs --checkpoint DIR or FILE");
  const bool data = line.training.given("data");
  require(line.has("input") || data, "predict needs inputs: files (tables, idx images, JPEG or PNG), or --data SPEC");
  for (const char* option : {"split", "examples"}) {
    require(data || !line.has(option), "--{} chooses from --data SPEC, and none is given", option);
  }
  require(data || !line.training.given("max-bad-records"),
          "--max-bad-records is for --data SPEC, and none is given; of files, leave bad ones out yourself");
}

}  // namespace

int run_predict(const CommandContext& context) {
  MpiSession& session = context.session;
  const CommandLine line = parse_command_line(context.arguments, predict_extras(), kTrainingOptions);
  if (line.help) {
    print_help(session,
               "credence predict INPUT... [options]\n\n" + describe_options(predict_extras(), kTrainingOptions));
    return 0;
  }
  require_inputs(line);
  const int samples = parse_draws(line, "samples", 32);

  const auto control = make_control_communicator(line.training, session);
  const auto file = line.text("output");
  if (file) require_creatable("output", *file, *control);
  const Machine machine = choose_machine(line.training, session, *control);
  const auto loaded = std::make_unique<LoadedModel>(load_model(*line.text("checkpoint"), machine, *control));
  loaded->reading.threads = machine.threads;  // nothing else needs them meanwhile
  std::vector<NamedInput> inputs;
  std::vector<PredictionInput> views;
  collectively(*control, [&] { work_aside(*control, [&] { inputs = open_all(line, *loaded); }); });
  require_same_inputs(inputs, *control);
  if (line.training.given("data")) leave_out_bad(line.training, *loaded, *inputs.back().source, *control);
  collectively(*control, [&] {
    if (line.training.given("data")) choose_examples(line.text("examples"), inputs.back());
    for (const NamedInput& input : inputs) views.push_back({*input.source, input.first, input.count});
  });
  Model& model = loaded->model;
  choose_predictive(line.text("predictive"), *model.posterior);
  const auto predictions =
      predict({*model.network, *model.posterior, model.likelihood, *control}, views,
              {.samples = samples, .seed = static_cast<std::uint64_t>(loaded->values.integer("seed"))});
  const PredictionReport report{inputs, predictions, loaded->examples};
  // Printed first: it must not be lost to a file that cannot be written.
  if (line.has("json")) {
    nlohmann::json json = to_json(report);
    json["checkpoint"] = loaded->checkpoint.file().string();
    json["step"] = loaded->checkpoint.integer("step");
    print_json(session, json);
  }
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    if (file) work_aside(*control, [&] { write_text_file(*file, to_csv(report)); });
    if (!file && !line.has("json")) print_table(report);
  });
  if (file) log_info("predictions: {}", *file);
  return 0;
}

}  // namespace credence
