#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "credence/communication/communicator.h"
#include "credence/data/loader.h"
#include "credence/estimators/estimator.h"
#include "credence/estimators/objective.h"
#include "credence/optimizers/optimizer.h"
#include "credence/optimizers/schedule.h"
#include "credence/training/laplace.h"
#include "credence/training/run_state.h"

namespace credence {

struct TrainingOptions {
  std::filesystem::path directory;               // of the run; its lock is held by the caller on rank 0
  std::function<bool()> is_directory_lost = {};  // to another job; asked every step, and by the thread that saves
  std::int64_t total_steps = 0;                  // of the whole run
  std::int64_t checkpoint_every = 0;             // steps; a last checkpoint is always written
  int keep = 3;
  std::int64_t stop_after = 0;  // not 0: stop with a checkpoint once so many steps are completed, as a signal would
  Objective objective;
  Schedule schedule;
  std::int64_t lr_warmup_steps = 0;
  /// swag: iterates are collected once `first` steps are completed and after every `every` more, at the learning rate
  /// that the schedule has at step `first`.
  struct Collection {
    std::int64_t first = 0;
    std::int64_t every = 1;
  };
  std::optional<Collection> collection = {};
  std::optional<LaplaceOptions> laplace = {};  // fitted after the last step
  /// Called where training ends in an exception, which is the current one, before anything waits for the disk: other
  /// ranks leave meanwhile, and mpirun ends this one soon after.
  std::function<void()> on_failure = {};
};

struct TrainingParts {
  const DataSource& source;
  const Likelihood& likelihood;
  const SamplingPlan& plan;
  Loader& loader;  // begins at state.step and the estimator's first shard
  Estimator& estimator;
  Communicator& communicator;
};

/// What a caller is told after every step.
struct StepReport {
  const StepRecord& record;
  std::int64_t total_steps;
};

enum class Outcome : std::uint8_t { finished, stopped };

/// Trains until total_steps, or until any rank was asked to stop; both leave a checkpoint. Collective. Throws
/// NumericalError where the run diverges (a state that is not finite is never written), StorageError after three saves
/// in a row that failed, DirectoryInUseError where the directory is lost, CommunicationError where a rank is.
Outcome train(const TrainingParts& parts, const TrainingOptions& options, const RunIdentity& identity, RunState& state,
              const std::function<void(const StepReport&)>& report);

}  // namespace credence
