#include <fmt/ranges.h>

#include <cmath>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/checkpoint/search.h"

namespace credence {
namespace {

const std::vector<CommandOption>& inspect_extras() {
  static const std::vector<CommandOption> extras = {
      {"file", "checkpoint, or run directory (its newest)", false, true},
      {"verify", "re-compute every checksum, of a run directory those of all its checkpoints, and say what is damaged",
       true},
      {"json", "everything as one JSON object", true},
      {"help", "this text", true}};
  return extras;
}

nlohmann::json to_json(const Attribute& attribute) {
  return std::visit([](const auto& value) { return nlohmann::json(value); }, attribute);
}

nlohmann::json describe(const Checkpoint& checkpoint) {
  nlohmann::json attributes;
  for (const auto& [name, value] : checkpoint.attributes()) attributes[name] = to_json(value);
  nlohmann::json arrays = nlohmann::json::array();
  for (const ArrayView& array : checkpoint.arrays()) {
    arrays.push_back({{"name", array.name}, {"dtype", name_of(array.dtype)}, {"shape", array.shape}});
  }
  nlohmann::json posterior;
  for (const ArrayView& array : checkpoint.arrays()) {
    if (!array.name.starts_with("posterior/") || !array.name.ends_with("/mean")) continue;
    const std::string group = array.name.substr(0, array.name.size() - 5);
    nlohmann::json tensor = {{"shape", array.shape}};
    for (const auto& [name, value] : checkpoint.attributes_of(group)) tensor[name] = to_json(value);
    posterior[group.substr(10)] = tensor;
  }
  return {{"file", checkpoint.file().string()},
          {"attributes", attributes},
          {"config", checkpoint.config()},
          {"posterior", posterior},
          {"arrays", arrays}};
}

/// What sparse and spike-slab would prune of a tensor, in percent.
std::string pruned_share(const nlohmann::json& tensor) {
  if (!tensor.contains("pruned")) return "-";
  double weights = 1.0;
  for (const std::int64_t size : tensor["shape"].get<std::vector<std::int64_t>>()) weights *= static_cast<double>(size);
  return fmt::format("{:.2f} %", 100.0 * tensor["pruned"].get<double>() / weights);
}

/// How much of the network is outside the KL.
void print_points(const nlohmann::json& posterior) {
  std::int64_t tensors = 0, weights = 0;
  for (const auto& [name, tensor] : posterior.items()) {
    if (tensor.value("family", "") != "point") continue;
    std::int64_t count = 1;
    for (const std::int64_t size : tensor["shape"].get<std::vector<std::int64_t>>()) count *= size;
    ++tensors;
    weights += count;
  }
  if (tensors > 0) {
    fmt::print("\n{} of {} tensors, {} parameters in all, are point estimates: outside the KL\n", tensors,
               posterior.size(), weights);
  }
}

/// The standard deviation of the prior, or of a learned one what q says of it; "-" where the prior has none.
std::string prior_scale(const nlohmann::json& tensor) {
  if (tensor.contains("prior_scale_mean")) {
    return fmt::format("{:.3g} +- {:.2g}", tensor["prior_scale_mean"].get<double>(),
                       tensor["prior_scale_deviation"].get<double>());
  }
  const auto scale = tensor.find("prior_scale");
  return scale == tensor.end() || !scale->is_number() || std::isinf(scale->get<double>())
             ? "-"
             : fmt::format("{:.4g}", scale->get<double>());
}

void print(const Checkpoint& checkpoint, const nlohmann::json& description) {
  fmt::print("{}\n", checkpoint.file().string());
  for (const auto& [name, value] : description["attributes"].items()) {
    if (name != "class_names" && name != "feature_names")
      fmt::print("  {:<24} {}\n", name, value.is_string() ? value.get<std::string>() : to_text(value));
  }
  fmt::print("\nconfiguration\n");
  std::string config = checkpoint.config();
  for (std::size_t begin = 0; begin < config.size();) {
    const std::size_t end = std::min(config.find('\n', begin), config.size());
    fmt::print("  {}\n", config.substr(begin, end - begin));
    begin = end + 1;
  }
  fmt::print("\nposterior\n  {:<28} {:>18}  {:<9} {:<16} {:>18} {:>14} {:>9}\n", "tensor", "shape", "family", "prior",
             "prior scale", "KL (nats)", "pruned");
  for (const auto& [name, tensor] : description["posterior"].items()) {
    const auto number = [&](const char* key) {
      return tensor.contains(key) && tensor[key].is_number() ? tensor[key].get<double>() : std::nan("");
    };
    fmt::print("  {:<28} {:>18}  {:<9} {:<16} {:>18} {:>14} {:>9}\n", name,
               fmt::format("{}", fmt::join(tensor["shape"].get<std::vector<std::int64_t>>(), " x ")),
               tensor.value("family", "?"), tensor.value("prior", "?"), prior_scale(tensor),
               std::isnan(number("kl")) ? "-" : fmt::format("{:.2f}", number("kl")), pruned_share(tensor));
  }
  print_points(description["posterior"]);
  std::int64_t other = 0;
  for (const ArrayView& array : checkpoint.arrays()) other += array.name.starts_with("posterior/") ? 0 : 1;
  fmt::print("\n{} arrays of optimizer, buffers and history; --json lists them\n", other);
}

/// Every checkpoint of a directory, or one file.
void verify(const CommandContext& context, const CommandLine& line, const std::filesystem::path& given) {
  const bool whole_run = std::filesystem::is_directory(given);
  std::vector<std::filesystem::path> files;
  if (whole_run) {
    for (const auto& found : checkpoints::list_checkpoints(given)) files.push_back(found.file);
    if (files.empty()) throw DataError(fmt::format("{} holds no checkpoint", given.string()));
  } else {
    files.push_back(given);
  }
  std::vector<std::string> damaged;
  nlohmann::json reports = nlohmann::json::array();
  for (const std::filesystem::path& file : files) {
    const auto findings = verify_checkpoint(file);
    for (const std::string& finding : findings) log_error("{}", finding);
    if (!findings.empty()) damaged.push_back(findings.front());
    reports.push_back({{"file", file.string()}, {"sound", findings.empty()}, {"findings", findings}});
    if (line.has("json")) continue;
    fmt::print("{}: {}\n", file.string(), findings.empty() ? "sound, every checksum agrees" : "damaged");
  }
  if (line.has("json")) {
    print_json(context.session,
               whole_run ? nlohmann::json{{"directory", given.string()}, {"sound", damaged.empty()}, {"files", reports}}
                         : reports.front());
  }
  if (damaged.empty()) return;
  throw DataError(whole_run ? fmt::format("{} of {} checkpoints in {} damaged: {}", damaged.size(), files.size(),
                                          given.string(), damaged.front())
                            : fmt::format("{} is damaged: {}", given.string(), damaged.front()));
}

}  // namespace

int run_inspect(const CommandContext& context) {
  const CommandLine line = parse_command_line(context.arguments, inspect_extras(), {});
  if (line.help) {
    print_help(context.session, "credence inspect FILE [options]\n\n" + describe_options(inspect_extras(), {}));
    return 0;
  }
  const auto given = line.text("file");
  require(given.has_value(), "inspect needs a checkpoint or a run directory: credence inspect FILE");
  if (context.session.rank() != 0) return 0;

  if (line.has("verify")) {
    verify(context, line, *given);
    return 0;
  }
  std::unique_ptr<Checkpoint> checkpoint;
  if (std::filesystem::is_directory(*given)) {
    checkpoint = newest_checkpoint(*given);
    if (checkpoint == nullptr) throw DataError(fmt::format("{} holds no checkpoint", *given));
  } else {
    checkpoint = std::make_unique<Checkpoint>(*given);
  }
  const nlohmann::json description = describe(*checkpoint);
  if (line.has("json")) {
    print_json(context.session, description);
  } else {
    print(*checkpoint, description);
  }
  return 0;
}

}  // namespace credence
