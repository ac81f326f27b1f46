#include "credence/prediction/evaluate.h"

#include <algorithm>
#include <map>

#include "agreement.h"
#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/context.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/data/corruption.h"
#include "credence/data/open.h"
#include "credence/posteriors/sparsity.h"
#include "credence/prediction/norm_statistics.h"
#include "credence/prediction/predictions_file.h"

namespace credence {
namespace {

const std::vector<CommandOption>& evaluate_extras() {
  static const std::vector<CommandOption> extras = {
      {"checkpoint", "checkpoint file, or run directory (its newest good one)"},
      {"samples", "posterior draws (default 32; of a vae 500, each with latent variables of its own)"},
      {"split", "train | test (default test)"},
      {"ood", "out-of-distribution data, as for --data: AUROC by predictive entropy (of a vae by log p(x))"},
      {"elbo", "also the ELBO of the training data, with its standard error", true},
      {"check",
       "STAT[,STAT]: posterior predictive checks by mean, variance, minimum, maximum, or of classes accuracy, "
       "class-entropy"},
      {"corrupt",
       "NAME[:SEVERITY][,...]: also on corrupted images, noise, blur, contrast, brightness, jpeg or pixelate at "
       "severity 1 to 5 (all five where none is given); all: every one"},
      {"predictive", std::string(kPredictiveHelp)},
      {"norm-statistics",
       "running | refresh: batch normalisation by its averages of training, or estimated under each draw on the "
       "training "
       "data (default running)"},
      {"norm-batches", "batches of a shard, under --norm sync of all shards, that refresh reads (default 16)"},
      {"predictions", "HDF5 file for per-example predictions and what figures are drawn from"},
      {"json", "the metrics as one JSON object, last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}

constexpr std::string_view kTrainingOptions[] = {"data",   "threads", "loader-threads", "max-bad-records",
                                                 "device", "backend", "timeout-seconds"};

void print_checks(const nlohmann::json& checks) {
  fmt::print("\n{:<22} {:>12} {:>12} {:>12} {:>14}\n", "replicated data", "observed", "mean", "deviation",
             "P(T_rep >= T)");
  for (const nlohmann::json& check : checks) {
    std::string name = check.at("statistic");
    if (check.contains("column")) name += fmt::format(" of column {}", check["column"].get<int>());
    fmt::print("{:<22} {:>12.4f} {:>12.4f} {:>12.4f} {:>14.3f}\n", name, check.at("observed").get<double>(),
               check.at("replicated_mean").get<double>(), check.value("replicated_stddev", 0.0),
               check.at("tail_probability").get<double>());
  }
}

void print_depths(const nlohmann::json& depth) {
  fmt::print("\ndepth: mean {:.3f}, predictions at {:.3f}\n{:>5} {:>12} {:>12} {:>12}\n", depth["mean"].get<double>(),
             depth["mean_mode"].get<double>(), "depth", "q(depth)", "nll", "accuracy");
  for (std::size_t l = 0; l < depth["probability"].size(); ++l) {
    fmt::print("{:>5} {:>12.4f} {:>12.4f} {:>12}\n", l + 1, depth["probability"][l].get<double>(),
               depth["nll"][l].get<double>(),
               depth.contains("accuracy") ? fmt::format("{:.4f}", depth["accuracy"][l].get<double>()) : "");
  }
}

void print_corrupted(const nlohmann::json& metrics) {
  fmt::print("\n{:<14}{:>9}", "corrupted", "severity");
  constexpr const char* kColumns[] = {"accuracy", "nll", "ece", "brier", "entropy", "mutual_information", "aurc"};
  for (const char* name : kColumns) {
    if (metrics.contains(name)) fmt::print("{:>{}}", name, std::max<std::size_t>(std::string(name).size() + 2, 10));
  }
  const auto row = [&](const std::string& name, const std::string& severity, const nlohmann::json& values) {
    fmt::print("\n{:<14}{:>9}", name, severity);
    for (const char* column : kColumns) {
      if (!values.contains(column)) continue;
      fmt::print("{:>{}.4f}", values[column].get<double>(), std::max<std::size_t>(std::string(column).size() + 2, 10));
    }
  };
  row("none", "", metrics);
  for (const nlohmann::json& entry : metrics["corrupted"]) {
    row(entry["corruption"], std::to_string(entry["severity"].get<int>()), entry);
  }
  row("mean", "", metrics["corrupted_mean"]);
  fmt::print("\n");
}

void print_metrics(const nlohmann::json& metrics) {
  fmt::print("{:<22} {:>12} {:>12}\n", "", "predictive", "at the mean");
  for (const auto& [name, value] : metrics.items()) {
    if (!value.is_number_float()) continue;
    const nlohmann::json& mean = metrics.at("mean");
    fmt::print("{:<22} {:>12.4f} {:>12}\n", name, value.get<double>(),
               mean.contains(name) ? fmt::format("{:.4f}", mean[name].get<double>()) : "");
  }
  if (metrics.contains("pruned")) {
    const nlohmann::json& pruned = metrics["pruned"];
    fmt::print("\nwith the weights that the posterior does not need set to zero\n");
    print_metrics(pruned);
  }
  if (metrics.contains("elbo")) {
    fmt::print("\nELBO of the training data, nats\n");
    for (const auto& [name, value] : metrics["elbo"].items()) {
      fmt::print("{:<22} {:>12.3f}\n", name, value.get<double>());
    }
  }
  if (metrics.contains("depth")) print_depths(metrics["depth"]);
  if (metrics.contains("checks")) print_checks(metrics["checks"]);
  if (metrics.contains("corrupted")) print_corrupted(metrics);
}

/// How sparse the posterior is, and the same evaluation with what it does not need set to zero.
nlohmann::json evaluate_pruned(EvaluationParts parts, const EvaluationOptions& options) {
  const Sparsity sparsity = prune(parts.posterior);
  parts.training = nullptr;  // the bound is of the posterior as it was
  nlohmann::json pruned = to_json(evaluate(parts, options));
  pruned["sparsity"] = sparsity.share();
  pruned["compression"] = sparsity.compression();
  for (const Sparsity::Tensor& tensor : sparsity.tensors) {
    const std::string& name = parts.posterior.layout().slots[static_cast<std::size_t>(tensor.slot)].name;
    pruned["tensors"][name] = {{"weights", tensor.weights}, {"pruned", tensor.pruned}};
  }
  return pruned;
}

struct CorruptedEvaluation {
  const EvaluationParts& parts;
  const EvaluationOptions& options;
  int threads;  // that corrupt images
};

/// The metrics of `parts.source` under each corruption, and their means over all of them. Collective.
void add_corrupted(const std::vector<Corruption>& corruptions, const CorruptedEvaluation& evaluation,
                   nlohmann::json& metrics) {
  const EvaluationParts& parts = evaluation.parts;
  nlohmann::json& list = metrics["corrupted"] = nlohmann::json::array();
  std::map<std::string, double> sums;
  for (const Corruption& corruption : corruptions) {
    const std::unique_ptr<DataSource> source = corrupted(parts.source, corruption, evaluation.threads);
    nlohmann::json entry = to_json(evaluate(
        {parts.network, parts.posterior, parts.likelihood, *source, parts.communicator, nullptr, nullptr, parts.norms},
        evaluation.options));
    entry["corruption"] = name_of(corruption.kind);
    entry["severity"] = corruption.severity;
    for (const auto& [name, value] : entry.items()) {
      if (value.is_number_float()) sums[name] += value.get<double>();
    }
    list.push_back(std::move(entry));
  }
  for (const auto& [name, sum] : sums) {
    metrics["corrupted_mean"][name] = sum / static_cast<double>(corruptions.size());
  }
}

/// Batch normalisation as --norm-statistics asks for.
struct NormRefresh {
  NormRefresh(const CommandLine& line, LoadedModel& loaded, const DataSource& training)
      : plan(static_cast<std::uint64_t>(loaded.values.integer("seed")), training.size(), loaded.values.integer("batch"),
             static_cast<int>(loaded.values.integer("shards"))),
        statistics(*loaded.model.network,
                   {training, plan, parse_integer(line.text("norm-batches").value_or("16"), "--norm-batches")}) {}
  SamplingPlan plan;
  NormStatistics statistics;
};

bool wants_refresh(const CommandLine& line) {
  const std::string choice = line.text("norm-statistics").value_or("running");
  const std::vector<std::string> known = {"running", "refresh"};
  if (choice != known[0] && choice != known[1]) refuse_unknown("norm-statistics", choice, known);
  require(choice == known[1] || !line.has("norm-batches"), "--norm-batches is for --norm-statistics refresh");
  return choice == known[1];
}

}  // namespace

int run_evaluate(const CommandContext& context) {
  MpiSession& session = context.session;
  const CommandLine line = parse_command_line(context.arguments, evaluate_extras(), kTrainingOptions);
  if (line.help) {
    print_help(session, "credence evaluate [options]\n\n" + describe_options(evaluate_extras(), kTrainingOptions));
    return 0;
  }
  const auto path = line.text("checkpoint");
  require(path.has_value(), "evaluate needs --checkpoint DIR or FILE");
  int samples = parse_draws(line, "samples", 32);
  const Split split = parse_split(line.text("split").value_or("test"));
  std::vector<Corruption> corruptions;
  if (const auto spec = line.text("corrupt")) corruptions = parse_corruptions(*spec);

  const auto control = make_control_communicator(line.training, session);
  const auto predictions = line.text("predictions");
  if (predictions) require_creatable("predictions", *predictions, *control);
  const Machine machine = choose_machine(line.training, session, *control);
  // Nothing else needs the rank's threads while data are read.
  const int reading_threads = line.training.given("loader-threads") ? machine.loader_threads : machine.threads;
  std::unique_ptr<DataSource> source;
  std::unique_ptr<DataSource> ood;
  std::unique_ptr<DataSource> training;
  set_phase("reading of checkpoint and data");
  const auto loaded = std::make_unique<LoadedModel>(load_model(*path, machine, *control));
  loaded->reading.threads = reading_threads;
  const std::string recorded = loaded->values.text("data");
  const std::string spec = line.training.given("data") ? line.training.text("data") : recorded;
  collectively(*control, [&] {
    work_aside(*control, [&] {
      source = open_for(*loaded, spec, split);
      require_same_targets(source->spec(), loaded->examples, spec);
      if (const auto other = line.text("ood")) ood = open_for(*loaded, *other, Split::test);
      if (line.has("elbo") || wants_refresh(line)) training = open_for(*loaded, recorded, Split::train);
    });
  });
  require_same_data(*source, spec, *control);
  if (ood) require_same_data(*ood, *line.text("ood"), *control);
  if (training) require_same_data(*training, recorded, *control);
  const auto leave_out = [&](const std::unique_ptr<DataSource>& data) {
    return data == nullptr ? std::int64_t{0} : leave_out_bad(line.training, *loaded, *data, *control);
  };
  const std::int64_t bad_records = leave_out(source);
  leave_out(ood);
  leave_out(training);
  collectively(*control, [&] {
    require(
        !training || training->digest() == std::get<std::string>(loaded->checkpoint.attributes().at("dataset_digest")),
        "--{} needs the training data, and {} has other content than when the run was trained, or others of its "
        "images are left out (--max-bad-records)",
        line.has("elbo") ? "elbo" : "norm-statistics refresh", recorded);
  });

  set_phase("evaluation");
  Model& model = loaded->model;
  if (is_generative(model.likelihood) && !line.text("samples")) samples = 500;  // Burda et al. 2016 use 5000
  choose_predictive(line.text("predictive"), *model.posterior);
  require(
      !is_generative(model.likelihood) || !model.posterior->linearized(),
      "--predictive linearized is for outputs that are a function of the weights, and this network's are drawn; use "
      "sampled");
  std::optional<NormRefresh> refresh;
  if (wants_refresh(line)) refresh.emplace(line, *loaded, *training);
  const EvaluationParts parts{*model.network,
                              *model.posterior,
                              model.likelihood,
                              *source,
                              *control,
                              ood.get(),
                              line.has("elbo") ? training.get() : nullptr,
                              refresh ? &refresh->statistics : nullptr};
  EvaluationOptions options{.samples = samples,
                            .seed = static_cast<std::uint64_t>(loaded->values.integer("seed")),
                            .keep_probabilities = predictions.has_value(),
                            .surface = predictions.has_value(),
                            .checks = {}};
  if (const auto names = line.text("check")) {
    options.checks = parse_statistics(*names, is_classification(model.likelihood));
  }
  const Evaluation evaluation = evaluate(parts, options);
  nlohmann::json metrics = to_json(evaluation);
  metrics["checkpoint"] = loaded->checkpoint.file().string();
  if (refresh) metrics["norm_statistics"] = "refresh";
  metrics["draws"] = model.posterior->linearized() ? "linearized" : "sampled";
  options.keep_probabilities = options.surface = false;
  if (!corruptions.empty()) {
    EvaluationOptions unchecked = options;
    unchecked.checks.clear();
    add_corrupted(corruptions, {parts, unchecked, reading_threads}, metrics);
  }
  // Last, as it prunes the posterior.
  if (!measure_sparsity(*model.posterior).tensors.empty()) metrics["pruned"] = evaluate_pruned(parts, options);
  metrics["bad_records"] = bad_records;
  metrics["step"] = loaded->checkpoint.integer("step");
  if (line.has("json")) {
    print_json(session, metrics);
  } else if (session.rank() == 0) {
    print_metrics(metrics);
  }
  // After the metrics, which must not be lost to a file that cannot be written.
  if (predictions) {
    collectively(*control, [&] {
      if (session.rank() == 0) work_aside(*control, [&] { write_predictions(*predictions, evaluation, *source); });
    });
  }
  return 0;
}

}  // namespace credence
