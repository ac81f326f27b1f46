#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "credence/base/errors.h"
#include "credence/communication/factory.h"

namespace credence {

/// What every command gets; a command returns its exit code or throws an Error.
struct CommandContext {
  MpiSession& session;
  std::span<const std::string> arguments;
};

int run_train(const CommandContext& context);
int run_evaluate(const CommandContext& context);
int run_predict(const CommandContext& context);
int run_inspect(const CommandContext& context);
int run_export(const CommandContext& context);
int run_plan(const CommandContext& context);
int run_pack(const CommandContext& context);
int run_doctor(const CommandContext& context);

/// Prints help on rank 0.
void print_help(const MpiSession& session, const std::string& text);
/// One line, or several with an indent. Bytes that are no UTF-8, as paths may have, are replaced.
std::string to_text(const nlohmann::json& value, int indent = -1);
/// One JSON object as a line of stdout, on rank 0. NaN and infinities become null.
void print_json(const MpiSession& session, const nlohmann::json& value);

/// Says what the exception that is being handled tells: its line on stderr and in the log, and status.json. Main does
/// so for every error; what has been said is not said again.
void tell_failure(const MpiSession& session);

/// The run directory whose status.json tells of a failure, once a command has one.
void set_status_directory(const std::string& directory);
/// Writes status.json there, on rank 0; `any_rank`: on the rank that calls. Failures to write are ignored.
void write_status(const MpiSession& session, const nlohmann::json& status, bool any_rank = false);

}  // namespace credence
