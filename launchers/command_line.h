#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "credence/communication/communicator.h"
#include "credence/training/options.h"

namespace credence {

/// One option of a command beside training's own.
struct CommandOption {
  std::string name;
  std::string help;
  bool flag = false;        // takes no value
  bool positional = false;  // may be given without its name
};

/// What a user typed after `credence COMMAND`.
struct CommandLine {
  // Given on the command line or in --config FILE, which every command takes; numbers are within bounds.
  OptionValues training;
  std::map<std::string, std::vector<std::string>> extras;  // the command's own options
  bool help = false;

  bool has(const std::string& name) const { return extras.contains(name); }
  std::optional<std::string> text(const std::string& name) const;
};

/// Parses with Boost.Program_options. `training_names`: which training options the command takes. UserError names an
/// unknown option and the nearest known one.
CommandLine parse_command_line(std::span<const std::string> arguments, std::span<const CommandOption> extras,
                               std::span<const std::string_view> training_names);

/// The options of a command with defaults, for --help.
std::string describe_options(std::span<const CommandOption> extras, std::span<const std::string_view> training_names);

/// How many posterior draws an option of the command asks for. UserError outside 1 to 1,000,000.
int parse_draws(const CommandLine& line, const std::string& name, int fallback);

/// That the file of --`option` can be created, before the work that fills it; what is there already stays. StorageError
/// otherwise. Collective.
void require_creatable(const std::string& option, const std::filesystem::path& file, Communicator& control);

/// Names of all training options.
std::vector<std::string_view> all_training_names();

}  // namespace credence
