#pragma once

#include <filesystem>
#include <memory>

#include "command_line.h"
#include "credence/checkpoint/checkpoint.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/communication/factory.h"
#include "credence/data/sampling.h"
#include "credence/training/options.h"
#include "credence/training/run_state.h"

namespace credence {

/// What rank 0 found in the run directory.
struct Start {
  std::filesystem::path directory;
  std::unique_ptr<RunDirectoryLock> lock;  // rank 0
  std::unique_ptr<Checkpoint> checkpoint;  // rank 0, where a run is continued
  OptionValues values;                     // on every rank
  bool resumed = false;
  bool overwrite = false;
};

/// UserError where ranks were started with different options, naming the first that differs. Collective.
void require_same_options(const CommandLine& line, Communicator& control);

/// Takes the directory and decides whether this is a new run; what it holds stays as it is. Collective: every rank ends
/// with the same values or throws the same error.
Start begin_run(const CommandLine& line, MpiSession& session, Communicator& control);

/// What --epochs or --steps ask for.
std::int64_t planned_steps(const OptionValues& values, const SamplingPlan& plan);

/// StorageError unless two checkpoints fit, the one before being kept until the next is whole, or one beside as many as
/// are kept: better known now than after hours.
void require_space(const RunState& state, const RunIdentity& identity, const Start& start);

/// Makes the directory this run's, once nothing is left that could refuse it: what --overwrite replaces is removed,
/// config.ini written, and from here on status.json tells of failures. Collective.
void occupy_directory(const Start& start, const MpiSession& session, Communicator& control);

}  // namespace credence
