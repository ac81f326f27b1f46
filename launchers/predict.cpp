#include "credence/prediction/predict.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/data/inputs.h"
#include "credence/data/open.h"

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
      {"examples", "with --data: A-B, the examples from A to B, counted from 0 (default all)"},
      {"output", "table of all numbers, to this csv file instead of stdout"},
      {"json", "everything as one JSON object, last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

constexpr std::string_view kTrainingOptions[] = {"data", "threads", "device", "backend", "timeout-seconds"};

/// What to predict, under the name that a user knows it by.
struct Named {
  std::string name;
  std::unique_ptr<DataSource> source;
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::vector<std::string> files = {};  // of images in a file each, one an example

  std::string input_of(std::int64_t i) const { return files.empty() ? name : files[static_cast<std::size_t>(i)]; }
  std::int64_t example_of(std::int64_t i) const { return files.empty() ? first + i : 0; }
  /// How a table under `name` calls the example.
  std::string label_of(std::int64_t i) const { return files.empty() ? fmt::format("{}", first + i) : input_of(i); }
  int label_width() const {
    std::size_t width = 8;
    for (const std::string& file : files) width = std::max(width, file.size());
    return static_cast<int>(width);
  }
  const char* label_heading() const { return files.empty() ? "example" : "file"; }
};

std::pair<std::int64_t, std::int64_t> parse_examples(const std::string& text, std::int64_t size) {
  const auto dash = text.find('-');
  const std::int64_t first = parse_integer(text.substr(0, dash), "--examples A-B");
  const std::int64_t last = dash == std::string::npos ? first : parse_integer(text.substr(dash + 1), "--examples A-B");
  require(first <= last && last < size, "--examples {} must lie within the {} examples of the data, from 0 to {}", text,
          size, size - 1);
  return {first, last - first + 1};
}

Named open_dataset(const CommandLine& line, const LoadedModel& loaded) {
  const std::string spec = line.training.text("data");
  const Split split = parse_split(line.text("split").value_or("test"));
  Named named{fmt::format("{} ({})", spec, name_of(split)), open_for(loaded, spec, split)};
  named.count = named.source->size();
  if (const auto examples = line.text("examples")) {
    std::tie(named.first, named.count) = parse_examples(*examples, named.source->size());
  }
  return named;
}

/// All images of the inputs as one dataset, after the tables and idx files.
std::vector<Named> open_files(const std::vector<std::string>& inputs, const LoadedModel& loaded) {
  std::vector<Named> all;
  std::vector<std::filesystem::path> images;
  for (const std::string& input : inputs) {
    const auto files = image_files(input);
    images.insert(images.end(), files.begin(), files.end());
    if (!files.empty()) continue;
    Named named{input, open_inputs(input, loaded.examples)};
    named.count = named.source->size();
    all.push_back(std::move(named));
  }
  if (images.empty()) return all;
  Named named{"images", open_image_files(images, loaded.examples, loaded.reading)};
  named.count = named.source->size();
  named.files.assign(images.begin(), images.end());
  all.push_back(std::move(named));
  return all;
}

std::vector<Named> open_all(const CommandLine& line, const LoadedModel& loaded) {
  std::vector<Named> all;
  if (line.has("input")) all = open_files(line.extras.at("input"), loaded);
  if (line.training.given("data")) all.push_back(open_dataset(line, loaded));
  return all;
}

/// What is known of every example, under the name that files use.
struct Field {
  const char* name;
  const std::vector<double>& values;  // [N, width]
  std::int64_t width;
  bool list;  // also where there is one

  double at(std::int64_t example, std::int64_t place) const {
    return values[static_cast<std::size_t>(example * width + place)];
  }
};

std::vector<Field> fields_of(const InputPredictions& p) {
  std::vector<Field> fields = {{"probability", p.probabilities, p.classes, true},
                               {"stddev", p.probability_stddev, p.classes, true},
                               {"entropy", p.entropy, 1, false},
                               {"mutual_information", p.mutual_information, 1, false},
                               {"mean", p.mean, p.columns, true},
                               {"stddev", p.stddev, p.columns, true},
                               {"mean_stddev", p.mean_stddev, p.columns, true},
                               {"lower", p.lower, p.columns, true},
                               {"upper", p.upper, p.columns, true}};
  std::vector<Field> known;
  for (const Field& field : fields) {
    if (!field.values.empty()) known.push_back(field);
  }
  return known;
}

/// A field of a csv file.
std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string result = "\"";
  for (const char letter : text) result += letter == '"' ? std::string("\"\"") : std::string(1, letter);
  return result + "\"";
}

std::string class_name(const ExampleSpec& examples, std::int64_t label) {
  const auto index = static_cast<std::size_t>(label);
  return index < examples.class_names.size() ? examples.class_names[index] : fmt::format("{}", label);
}

/// Everything that is known of the predictions, for writing.
struct Report {
  const std::vector<Named>& inputs;
  const std::vector<InputPredictions>& predictions;
  const ExampleSpec& trained;
};

std::string to_csv(const Report& report) {
  const bool classes = report.predictions.front().classes > 0;
  std::string text = classes ? "input,example,predicted,class" : "input,example";
  for (const Field& field : fields_of(report.predictions.front())) {
    for (std::int64_t c = 0; c < field.width; ++c) {
      text += field.width > 1 ? fmt::format(",{}_{}", field.name, c) : fmt::format(",{}", field.name);
    }
  }
  text += "\n";
  for (std::size_t k = 0; k < report.inputs.size(); ++k) {
    const InputPredictions& predictions = report.predictions[k];
    const std::vector<Field> fields = fields_of(predictions);
    for (std::int64_t i = 0; i < predictions.examples; ++i) {
      text += fmt::format("{},{}", quoted(report.inputs[k].input_of(i)), report.inputs[k].example_of(i));
      if (classes) {
        const std::int64_t label = predictions.predicted[static_cast<std::size_t>(i)];
        text += fmt::format(",{},{}", label, quoted(class_name(report.trained, label)));
      }
      for (const Field& field : fields) {
        for (std::int64_t c = 0; c < field.width; ++c) text += fmt::format(",{}", field.at(i, c));
      }
      text += "\n";
    }
  }
  return text;
}

nlohmann::json to_json(const Report& report) {
  nlohmann::json examples = nlohmann::json::array();
  for (std::size_t k = 0; k < report.inputs.size(); ++k) {
    const InputPredictions& predictions = report.predictions[k];
    for (std::int64_t i = 0; i < predictions.examples; ++i) {
      nlohmann::json example = {{"input", report.inputs[k].input_of(i)}, {"example", report.inputs[k].example_of(i)}};
      if (predictions.classes > 0) {
        example["predicted"] = predictions.predicted[static_cast<std::size_t>(i)];
        example["class"] = class_name(report.trained, predictions.predicted[static_cast<std::size_t>(i)]);
      }
      for (const Field& field : fields_of(predictions)) {
        const auto begin = field.values.begin() + i * field.width;
        if (field.list) {
          example[field.name] = std::vector<double>(begin, begin + field.width);
        } else {
          example[field.name] = *begin;
        }
      }
      examples.push_back(std::move(example));
    }
  }
  return {{"samples", report.predictions.front().samples}, {"examples", std::move(examples)}};
}

void print_classes(const InputPredictions& predictions, const Named& input, const ExampleSpec& trained) {
  const int width = input.label_width();
  fmt::print("{}\n{:>{}}  {:<20} {:>17}  {:<20} {:>17} {:>8} {:>9}\n", input.name, input.label_heading(), width,
             "class", "probability", "next", "probability", "entropy", "mutual");
  const std::int64_t classes = predictions.classes;
  for (std::int64_t i = 0; i < predictions.examples; ++i) {
    const auto p = [&](std::int64_t c) { return predictions.probabilities[static_cast<std::size_t>(i * classes + c)]; };
    const auto shown = [&](std::int64_t c) {
      return fmt::format("{:.4f} +- {:.4f}", p(c),
                         predictions.probability_stddev[static_cast<std::size_t>(i * classes + c)]);
    };
    const auto index = static_cast<std::size_t>(i);
    const std::int64_t first = predictions.predicted[index];
    std::int64_t next = first == 0 ? 1 : 0;
    for (std::int64_t c = 0; c < classes; ++c) {
      if (c != first && p(c) > p(next)) next = c;
    }
    fmt::print("{:>{}}  {:<20.20} {:>17}  {:<20.20} {:>17} {:>8.4f} {:>9.5f}\n", input.label_of(i), width,
               class_name(trained, first), shown(first), class_name(trained, next), shown(next),
               predictions.entropy[index], predictions.mutual_information[index]);
  }
}

void print_numbers(const InputPredictions& predictions, const Named& input) {
  const int width = input.label_width();
  fmt::print("{}\n{:>{}} {:>6} {:>13} {:>13} {:>13} {:>13} {:>13}\n", input.name, input.label_heading(), width,
             "column", "mean", "stddev", "of the mean", "5 %", "95 %");
  for (std::size_t i = 0; i < predictions.mean.size(); ++i) {
    const auto bound = [&](const std::vector<double>& values) {
      return values.empty() ? std::string("-") : fmt::format("{:.6g}", values[i]);
    };
    const auto target = static_cast<std::int64_t>(i);
    fmt::print("{:>{}} {:>6} {:>13.6g} {:>13.6g} {:>13.6g} {:>13} {:>13}\n",
               input.label_of(target / predictions.columns), width, target % predictions.columns, predictions.mean[i],
               predictions.stddev[i], predictions.mean_stddev[i], bound(predictions.lower), bound(predictions.upper));
  }
}

void print_table(const Report& report) {
  for (std::size_t k = 0; k < report.inputs.size(); ++k) {
    const InputPredictions& predictions = report.predictions[k];
    if (k > 0) fmt::print("\n");
    if (predictions.classes > 0) {
      print_classes(predictions, report.inputs[k], report.trained);
    } else {
      print_numbers(predictions, report.inputs[k]);
    }
  }
}

void require_inputs(const CommandLine& line) {
  require(line.text("checkpoint").has_value(), "predict needs --checkpoint DIR or FILE");
  const bool data = line.training.given("data");
  require(line.has("input") || data, "predict needs inputs: files (tables, idx images, JPEG or PNG), or --data SPEC");
  for (const char* option : {"split", "examples"}) {
    require(data || !line.has(option), "--{} chooses from --data SPEC, and none is given", option);
  }
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
  std::unique_ptr<LoadedModel> loaded;
  std::vector<Named> inputs;
  std::vector<PredictionInput> views;
  collectively(*control, [&] {
    loaded = std::make_unique<LoadedModel>(load_model(*line.text("checkpoint"), machine));
    loaded->reading.threads = machine.threads;  // nothing else needs them meanwhile
    inputs = open_all(line, *loaded);
    for (const Named& input : inputs) views.push_back({*input.source, input.first, input.count});
  });
  Model& model = loaded->model;
  choose_predictive(line.text("predictive"), *model.posterior);
  const auto predictions =
      predict({*model.network, *model.posterior, model.likelihood, *control}, views,
              {.samples = samples, .seed = static_cast<std::uint64_t>(loaded->values.integer("seed"))});
  const Report report{inputs, predictions, loaded->examples};
  // Printed first: it must not be lost to a file that cannot be written.
  if (line.has("json")) {
    nlohmann::json json = to_json(report);
    json["checkpoint"] = loaded->checkpoint.file().string();
    json["step"] = loaded->checkpoint.integer("step");
    print_json(session, json);
  }
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    if (file) write_text_file(*file, to_csv(report));
    if (!file && !line.has("json")) print_table(report);
  });
  if (file) log_info("predictions: {}", *file);
  return 0;
}

}  // namespace credence
