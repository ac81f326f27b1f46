#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "commands.h"
#include "credence/base/context.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/training/signals.h"
#include "large_blocks.h"

namespace credence {
namespace {

struct Command {
  int (*run)(const CommandContext&);
  const char* help;
};

const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> table = {
      {"train", {run_train, "train a posterior, or continue the run in --out"}},
      {"evaluate", {run_evaluate, "accuracy, likelihood and calibration of the posterior predictive"}},
      {"predict", {run_predict, "class probabilities or numbers for inputs, with their uncertainty"}},
      {"export", {run_export, "draws of the posterior for ArviZ, or means and scales as safetensors"}},
      {"inspect", {run_inspect, "what a checkpoint holds, and whether it is sound"}},
      {"plan", {run_plan, "what a run will need: memory, bytes on the network, size of a checkpoint"}},
      {"pack", {run_pack, "images of any dataset into one HDF5 file, read fast and checked"}},
      {"doctor", {run_doctor, "what works on this machine and what does not"}}};
  return table;
}

std::string overview() {
  std::string text =
      "credence COMMAND [options]: Bayesian neural networks by variational inference, alone or under "
      "mpirun\n\n";
  for (const auto& [name, command] : commands()) text += fmt::format("  {:<10} {}\n", name, command.help);
  return text + "\ncredence COMMAND --help lists a command's options.\n";
}

std::string status_directory;

int run(MpiSession& session, const std::vector<std::string>& arguments) {
  if (arguments.empty()) throw UserError("a command is missing; credence --help lists them");
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") {
    print_help(session, overview());
    return 0;
  }
  const auto command = commands().find(name);
  if (command == commands().end()) {
    std::vector<std::string> known;
    for (const auto& [known_name, unused] : commands()) known.push_back(known_name);
    refuse_unknown("command", name, known);
  }
  set_phase(name);
  return command->second.run({session, std::span(arguments).subspan(1)});
}

/// What the first line of an error tells: rank and host where it began, and cause, phase and step in the message.
struct Failure {
  ExitCode code = ExitCode::internal;
  std::string message;
  Origin origin;
};

/// Of the exception that is being handled. A bug or a foreign exception is an internal error.
Failure current_failure(const MpiSession& session) {
  const auto here = [&](ExitCode code, const std::string& message) {
    return Failure{code, with_context(message), {session.rank(), host_name()}};
  };
  try {
    throw;
  } catch (const Error& error) {
    if (const Origin* origin = origin_of(error)) return {error.code(), error.what(), *origin};
    return here(error.code(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return here(ExitCode::storage, error.what());
  } catch (const std::bad_alloc&) {
    return here(ExitCode::internal, "out of memory");
  } catch (const std::exception& error) {
    if (std::ferror(stdout) != 0) {
      return here(ExitCode::storage, fmt::format("what was to be printed could not be written: {}", error.what()));
    }
    return here(ExitCode::internal, error.what());
  }
}

std::optional<Failure> told_failure;

/// What is printed is what a command was called for.
void require_printed() {
  if (std::fflush(stdout) == 0) return;
  throw StorageError(
      fmt::format("what was to be printed could not be written: {}", std::generic_category().message(errno)));
}

/// Without MPI there is nobody to tell: mpirun ends the other ranks.
std::unique_ptr<MpiSession> start_mpi(int& argc, char**& argv) {
  try {
    return std::make_unique<MpiSession>(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "error: on {}: {} (in the start of MPI)\n", host_name(), error.what());
    std::_Exit(static_cast<int>(error.code()));
  }
}

}  // namespace

void print_help(const MpiSession& session, const std::string& text) {
  if (session.rank() == 0) fmt::print("{}", text);
}

std::string to_text(const nlohmann::json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

void print_json(const MpiSession& session, const nlohmann::json& value) {
  if (session.rank() != 0) return;
  fmt::print("{}\n", to_text(value));
  require_printed();
}

void tell_failure(const MpiSession& session) {
  if (told_failure) return;
  told_failure = current_failure(session);
  const auto& [code, message, origin] = *told_failure;
  // A failure that all ranks share is said once, by rank 0; the loss of a rank is told by every survivor.
  const bool shared = code == ExitCode::usage || code == ExitCode::unusable_data ||
                      code == ExitCode::directory_in_use || code == ExitCode::diverged || code == ExitCode::storage;
  if (session.rank() == 0 || !shared) log_error("error: rank {} on {}: {}", origin.rank, origin.host, message);
  if (code == ExitCode::directory_in_use) return;  // status.json is the other job's to write
  write_status(session,
               {{"status", "failed"},
                {"exit_code", static_cast<int>(code)},
                {"rank", origin.rank},
                {"host", origin.host},
                {"message", message}},
               !shared);
}

void set_status_directory(const std::string& directory) {
  status_directory = directory;
}

void write_status(const MpiSession& session, const nlohmann::json& status, bool any_rank) {
  if (status_directory.empty() || (session.rank() != 0 && !any_rank)) return;
  const auto file = std::filesystem::path(status_directory) / "status.json";
  try {
    // The first failure is the cause; what other ranks meet afterwards follows from it.
    std::ifstream stream(file);
    const auto before = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
    if (any_rank && before.is_object() && before.value("status", "") == "failed") return;
    write_text_file(file, to_text(status, 2) + "\n");
  } catch (const std::exception&) {
    // The directory itself may be what failed; the log has the same words.
  }
}

}  // namespace credence

int main(int argc, char** argv) {
  using namespace credence;
  keep_large_tensors();
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  // What stops with a checkpoint does so from the first moment on: MPI may take long to start.
  if (!arguments.empty() && (arguments[0] == "train" || arguments[0] == "pack")) install_signal_handlers();
  const auto started = start_mpi(argc, argv);
  MpiSession& session = *started;
  open_log({.rank = session.rank(), .size = session.size(), .directory = {}});
  ignore_limit_signals();
  try {
    const int exit_code = run(session, arguments);
    require_printed();
    leave(session, exit_code);
  } catch (const std::exception&) {
    tell_failure(session);
    leave(session, static_cast<int>(told_failure->code), told_failure->message);
  }
}
