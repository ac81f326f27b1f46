#include "run_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "credence/base/log.h"
#include "listed.h"

namespace credence {
namespace {

nlohmann::json summary(const RunState& state, Outcome outcome, const std::filesystem::path& directory) {
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

/// How the KL of each tensor's posterior from its prior is known; empty where no tensor has one.
std::string describe_kl(const PosteriorPlan& plan) {
  const std::vector<int> drawn = monte_carlo_slots(plan);
  std::vector<std::string> names;
  bool closed_form = false;
  for (int slot = 0; slot < plan.network_slots; ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    const Family& family = plan.families[index];
    if (!family.gaussian() && family.kind != Family::Kind::categorical) continue;
    const bool is_drawn = std::find(drawn.begin(), drawn.end(), slot) != drawn.end();
    closed_form = closed_form || !is_drawn;
    if (is_drawn) names.push_back(plan.layout.slots[index].name);
  }
  if (names.empty()) return closed_form ? "closed form" : "";
  return fmt::format("{}Monte Carlo at the draws for {}", closed_form ? "closed form; " : "", listed(names));
}

}  // namespace

void log_start_table(const StartFigures& figures, Communicator& control) {
  std::set<std::string> hosts;
  for (const std::string& host : control.gather_texts(host_name())) hosts.insert(host);
  const OptionValues& values = figures.start.values;
  const Layout& layout = figures.model.network->layout();
  std::int64_t gaussian = 0;
  for (const auto& segment : figures.model.posterior->plan().segments) gaussian += segment.gaussian ? segment.count : 0;
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
  if (const std::string kl = describe_kl(figures.model.posterior->plan()); !kl.empty()) log_info("KL         {}", kl);
  const double scaling = learning_rate_scaling(values);
  log_info("optimizer  {} lr {}{} ({}), {} steps, seed {}", values.text("optimizer"), values.text("lr"),
           scaling == 1.0 ? "" : fmt::format(" x {:.6g} by {}", scaling, values.text("lr-scaling")),
           values.text("lr-schedule"), figures.total_steps, values.text("seed"));
  if (values.text("augment") != "none") {
    log_info("augment    {}: another likelihood than that of the data as they are", values.text("augment"));
  }
  if (const std::string altered = describe_alteration(figures.model.likelihood); !altered.empty()) {
    log_info("likelihood {}: another than that of the data as they are, so no ELBO", altered);
  }
  if (figures.start.resumed) log_info("resumed    at step {}", figures.first_step);
}

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

int conclude(const CommandContext& context, const CommandLine& line, const RunState& state, Outcome outcome,
             const std::filesystem::path& directory, const nlohmann::json& extra) {
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

}  // namespace credence
