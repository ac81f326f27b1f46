#pragma once

#include <nlohmann/json.hpp>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/training/train.h"
#include "run_start.h"

namespace credence {

/// What the start table shows.
struct StartFigures {
  const Start& start;
  const Machine& machine;
  const MpiSession& session;
  const DataSource& source;
  const Model& model;
  std::int64_t first_step;
  std::int64_t total_steps;
  bool tree;
};

/// Collective.
void log_start_table(const StartFigures& figures, Communicator& control);

/// Warnings and news about a run that continues.
void log_resumption(const Start& start, const OptionValues& given, const Checkpoint& checkpoint, const Machine& machine,
                    std::int64_t total_steps);

/// The run's end in status.json and, where asked for, as JSON. The exit code.
int conclude(const CommandContext& context, const CommandLine& line, const RunState& state, Outcome outcome,
             const std::filesystem::path& directory, const nlohmann::json& extra);

}  // namespace credence
