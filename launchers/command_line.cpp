#include "command_line.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/program_options.hpp>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/base/text.h"
#include "credence/data/input_file.h"

namespace credence {
namespace {

namespace po = boost::program_options;

using Texts = std::vector<std::string>;

/// The command's own options and --config, which every command takes, before --help.
std::vector<CommandOption> with_config(std::span<const CommandOption> extras) {
  std::vector<CommandOption> all(extras.begin(), extras.end());
  const auto help = std::find_if(all.begin(), all.end(), [](const CommandOption& o) { return o.name == "help"; });
  all.insert(help, CommandOption{"config", "file with 'name = value' lines; the command line wins"});
  return all;
}

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

/// The options of a command: by its own names, and which of training's.
struct Known {
  std::span<const CommandOption> extras;
  std::span<const std::string_view> training_names;

  const CommandOption* extra(const std::string& name) const {
    const auto found =
        std::find_if(extras.begin(), extras.end(), [&](const auto& option) { return option.name == name; });
    return found == extras.end() ? nullptr : &*found;
  }
  bool training(const std::string& name) const {
    return std::ranges::find(training_names, name) != training_names.end();
  }
  Texts names() const {
    Texts all;
    for (const CommandOption& option : extras) all.push_back(option.name);
    for (const std::string_view name : training_names) all.emplace_back(name);
    return all;
  }
};

std::string text_of_config(const std::string& file) {
  try {
    return InputFile(file).read_all();
  } catch (const DataError& error) {
    throw UserError(fmt::format("--config: {}", error.what()));
  }
}

/// The values of a file by name. UserError names the line that this command cannot take.
std::map<std::string, Texts> read_config(const std::string& file, const Known& known) {
  std::map<std::string, Texts> values;
  for (const auto& [number, name, value] : read_ini(text_of_config(file), file)) {
    const CommandOption* extra = known.extra(name);
    if (extra == nullptr && !known.training(name)) {
      require(find_option(name) == nullptr, "{}, line {}: this command takes no option {}", file, number, name);
      refuse_unknown(fmt::format("option in {}, line {}:", file, number), name, known.names());
    }
    require(extra == nullptr || !extra->flag || value == "true" || value == "false",
            "{}, line {}: {} is true or false, not '{}'", file, number, name, value);
    const bool repeated = extra != nullptr ? extra->positional : find_option(name)->repeated;
    require(repeated || !values.contains(name), "{}, line {}: option {} is given twice", file, number, name);
    values[name].push_back(value);
  }
  return values;
}

/// What the command line leaves open.
void add_config(const std::string& file, const Known& known, CommandLine& line) {
  const bool has_length = line.training.given("epochs") || line.training.given("steps");  // two names for one thing
  for (const auto& [name, list] : read_config(file, known)) {
    if (const CommandOption* extra = known.extra(name)) {
      if (!line.has(name) && (!extra->flag || list.front() == "true")) line.extras[name] = extra->flag ? Texts{} : list;
    } else if (!line.training.given(name) && !(has_length && (name == "epochs" || name == "steps"))) {
      line.training.set(name, list);
    }
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

void require_creatable(const std::string& option, const std::filesystem::path& file, Communicator& control) {
  collectively(control, [&] {
    if (control.rank() != 0) return;
    std::error_code ignored;
    if (std::filesystem::is_directory(file, ignored))
      throw StorageError(fmt::format("--{} {} is a folder; name a file in it", option, file.string()));
    if (file.has_parent_path() && !std::filesystem::is_directory(file.parent_path(), ignored))
      throw StorageError(fmt::format("--{} {} cannot be created: there is no folder {}; create it first", option,
                                     file.string(), file.parent_path().string()));
    try {
      const TemporaryFile probe(file);
    } catch (const StorageError& error) {
      throw StorageError(fmt::format("--{} {} cannot be created: {}", option, file.string(), error.what()));
    }
  });
}

std::vector<std::string_view> all_training_names() {
  std::vector<std::string_view> names;
  for (const OptionInfo& option : training_options()) names.push_back(option.name);
  return names;
}

CommandLine parse_command_line(std::span<const std::string> arguments, std::span<const CommandOption> extras,
                               std::span<const std::string_view> training_names) {
  const std::vector<CommandOption> own = with_config(extras);
  const po::options_description description = describe(own, training_names);
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
  for (const CommandOption& option : own) {
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
  if (line.help) return line;
  if (const auto file = line.text("config")) add_config(*file, {extras, training_names}, line);
  require_in_range(line.training);
  return line;
}

std::string describe_options(std::span<const CommandOption> extras, std::span<const std::string_view> training_names) {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view help, std::string_view fallback) {
    const std::string suffix = fallback.empty() ? "" : fmt::format(" (default {})", fallback);
    text += fmt::format("  --{:<18} {}{}\n", name, help, suffix);
  };
  for (const CommandOption& option : with_config(extras)) add(option.name, option.help, "");
  for (const std::string_view name : training_names) {
    const OptionInfo& info = *find_option(name);
    add(name, info.help, info.fallback);
  }
  return text;
}

}  // namespace credence
