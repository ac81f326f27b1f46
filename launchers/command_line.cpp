#include "command_line.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <sstream>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

namespace po = boost::program_options;

using Texts = std::vector<std::string>;

po::options_description describe(std::span<const CommandOption> extras,
                                 std::span<const std::string_view> training_names) {
  po::options_description description;
  auto add = description.add_options();
  for (const CommandOption& option : extras) {
    if (option.flag) {
      add(option.name.c_str(), option.help.c_str());
    } else {
      add(option.name.c_str(), po::value<Texts>()->composing(), option.help.c_str());
    }
  }
  for (const std::string_view name : training_names) {
    const OptionInfo& info = *find_option(name);
    add(std::string(name).c_str(), po::value<Texts>()->composing(), std::string(info.help).c_str());
  }
  return description;
}

/// Once where once is meant: the last of two silently winning has cost people days.
void refuse_repeats(const std::string& name, const Texts& values, bool repeated) {
  require(repeated || values.size() <= 1, "option --{} is given twice: '{}' and '{}'", name, values[0],
          values.size() > 1 ? values[1] : "");
}

void read_config(const std::string& file, std::span<const std::string_view> training_names, OptionValues& values) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  require(stream.good(), "cannot read the configuration file {}", file);
  const OptionValues from_file = from_ini(text.str(), file);
  const bool has_length = values.given("epochs") || values.given("steps");  // two names for one thing
  for (const auto& [name, list] : from_file.all()) {
    require(std::find(training_names.begin(), training_names.end(), name) != training_names.end(),
            "{}: this command takes no option {}", file, name);
    if (has_length && (name == "epochs" || name == "steps")) continue;
    if (!values.given(name)) values.set(name, list);
  }
}

}  // namespace

std::optional<std::string> CommandLine::text(const std::string& name) const {
  const auto found = extras.find(name);
  if (found == extras.end() || found->second.empty()) return std::nullopt;
  return found->second.back();
}

int parse_draws(const CommandLine& line, const std::string& name, int fallback) {
  const auto text = line.text(name);
  if (!text) return fallback;
  const std::int64_t draws = parse_integer(*text, "--" + name);
  require(draws >= 1 && draws <= 1'000'000, "--{} must be between 1 and 1000000, not {}", name, draws);
  return static_cast<int>(draws);
}

std::vector<std::string_view> all_training_names() {
  std::vector<std::string_view> names;
  for (const OptionInfo& option : training_options()) names.push_back(option.name);
  return names;
}

CommandLine parse_command_line(std::span<const std::string> arguments, std::span<const CommandOption> extras,
                               std::span<const std::string_view> training_names) {
  const po::options_description description = describe(extras, training_names);
  po::positional_options_description positional;
  for (const CommandOption& option : extras) {
    if (option.positional) positional.add(option.name.c_str(), -1);
  }
  CommandLine line;
  po::variables_map map;
  try {
    const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(Texts(arguments.begin(), arguments.end()))
                  .options(description)
                  .positional(positional)
                  .style(style)
                  .run(),
              map);
  } catch (const po::unknown_option& error) {
    Texts known;
    for (const auto& option : description.options()) known.push_back("--" + option->long_name());
    refuse_unknown("option", error.get_option_name(), known);
  } catch (const po::too_many_positional_options_error&) {
    throw UserError("this command takes only options, each with its name, such as --out DIR");
  } catch (const po::error& error) {
    throw UserError(error.what());
  }
  for (const CommandOption& option : extras) {
    if (!map.contains(option.name)) continue;
    const Texts values = option.flag ? Texts{} : map[option.name].as<Texts>();
    refuse_repeats(option.name, values, option.positional);
    line.extras[option.name] = values;
  }
  for (const std::string_view view : training_names) {
    const std::string name(view);
    if (!map.contains(name)) continue;
    const Texts values = map[name].as<Texts>();
    refuse_repeats(name, values, find_option(name)->repeated);
    line.training.set(name, values);
  }
  line.help = line.has("help");
  if (const auto file = line.text("config")) read_config(*file, training_names, line.training);
  return line;
}

std::string describe_options(std::span<const CommandOption> extras, std::span<const std::string_view> training_names) {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view help, std::string_view fallback) {
    const std::string suffix = fallback.empty() ? "" : fmt::format(" (default {})", fallback);
    text += fmt::format("  --{:<18} {}{}\n", name, help, suffix);
  };
  for (const CommandOption& option : extras) add(option.name, option.help, "");
  for (const std::string_view name : training_names) {
    const OptionInfo& info = *find_option(name);
    add(name, info.help, info.fallback);
  }
  return text;
}

}  // namespace credence
