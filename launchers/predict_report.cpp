#include "predict_report.h"

#include <utility>

namespace credence {
namespace {

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

void print_classes(const InputPredictions& predictions, const NamedInput& input, const ExampleSpec& trained) {
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

void print_numbers(const InputPredictions& predictions, const NamedInput& input) {
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

}  // namespace

std::string to_csv(const PredictionReport& report) {
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

nlohmann::json to_json(const PredictionReport& report) {
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

void print_table(const PredictionReport& report) {
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

}  // namespace credence
