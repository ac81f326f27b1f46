#include "credence/training/train.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "credence/base/context.h"
#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/checkpoint/background_writer.h"
#include "credence/training/dealt_update.h"
#include "credence/training/signals.h"

namespace credence {
namespace {

constexpr int kFailedSavesAllowed = 3;
// A loss this many times that of the first step, for this many steps in a row, will not come back.
constexpr double kDivergedFactor = 1000.0;
constexpr std::int64_t kDivergedSteps = 10;
constexpr std::chrono::milliseconds kSlice{50};  // of a wait for the disk: between slices other ranks get an answer

enum Flag : std::size_t { kStop, kSavesFailed, kDataFailed, kDirectoryLost, kFlags };

/// Names the shards whose loss is not finite and the first such tensor. Collective.
[[noreturn]] void report_not_finite(const TrainingParts& parts, const RunState& state, const char* what) {
  std::string mine;
  const GradientSum gradient = parts.estimator.gradient();
  const auto& slots = state.posterior.layout().slots;
  for (std::size_t i = 0; i < slots.size() && mine.empty(); ++i) {
    if (!gradient.slots[i].isfinite().all().item<bool>()) mine = slots[i].name;
  }
  std::string tensor;  // ranks that work on other members see other gradients
  for (const std::string& text : parts.communicator.gather_texts(mine)) {
    if (tensor.empty()) tensor = text;
  }
  const std::string shards = fmt::format("{}", fmt::join(parts.estimator.shards_not_finite(), ", "));
  std::string where;
  for (const std::string& text : parts.communicator.gather_texts(shards)) {
    if (!text.empty()) where += (where.empty() ? "" : ", ") + text;
  }
  throw NumericalError(
      fmt::format("{} at step {} is not finite{}{}; a smaller --lr or --clip-norm may help", what, state.step + 1,
                  where.empty() ? "" : " (shard " + where + ")",
                  tensor.empty() ? "" : ", and the first tensor whose gradient is not finite is " + tensor));
}

/// The update itself may have overflowed: a state that is not finite is never saved. The same on every rank.
void require_finite(const RunState& state) {
  const auto sums = state.posterior.measure();
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (std::isfinite(sums[i].squared_deviation) && std::isfinite(sums[i].log_scale)) continue;
    throw NumericalError(fmt::format("the posterior of {} is not finite after step {}; a smaller --lr may help",
                                     state.posterior.layout().slots[i].name, state.step));
  }
}

/// Whether the loss has stayed beyond recovery. A function of the history, so every rank and every resume agree.
void check_divergence(const RunState& state) {
  const std::vector<double>& log_likelihood = state.history.column("history/expected_log_likelihood");
  const auto size = static_cast<std::int64_t>(log_likelihood.size());
  if (size <= kDivergedSteps) return;
  const double limit = kDivergedFactor * log_likelihood.front();
  const bool diverged =
      log_likelihood.front() < 0.0 && std::all_of(log_likelihood.end() - kDivergedSteps, log_likelihood.end(),
                                                  [&](double value) { return value < limit; });
  if (!diverged) return;
  throw NumericalError(
      fmt::format("the loss has been over {} times that of the first step for {} steps, up to step {}: "
                  "training diverged; a smaller --lr or --clip-norm may help",
                  kDivergedFactor, kDivergedSteps, state.step));
}

/// Batches as training sees them. One that cannot be read on this rank is stood in for, so that the rank takes part in
/// the step's exchange, in which all ranks learn of it.
class Reading {
 public:
  Reading(const TrainingParts& parts, const RunState& state) : parts_(parts), state_(state) {}

  Examples next() {
    try {
      if (copied_) copied_->synchronize();
      while (!parts_.loader.ready_within(kSlice)) parts_.communicator.progress();
      return tensors_of(parts_.loader.next());
    } catch (const Error& error) {
      if (!failure_) failure_ = {error.code(), error.what()};
      return tensors_of(stand_in());
    }
  }
  const std::optional<std::pair<ExitCode, std::string>>& failure() const { return failure_; }

 private:
  Examples tensors_of(const Batch& batch) {
    const torch::Device device = state_.network.device();
    Examples examples = to_tensors(batch, parts_.source.spec(), parts_.likelihood, state_.network.dtype(), device);
    if (!device.is_cpu()) {
      if (!copied_) copied_.emplace(device.type());
      copied_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    }
    return examples;
  }
  Batch stand_in() const {
    const ExampleSpec& spec = parts_.source.spec();
    Batch batch;
    batch.size = parts_.plan.shard_size();
    batch.inputs.resize(static_cast<std::size_t>(batch.size * spec.input_elements()));
    batch.labels.resize(static_cast<std::size_t>(spec.classes > 0 ? batch.size : 0));
    batch.targets.resize(static_cast<std::size_t>(batch.size * spec.target_size));
    return batch;
  }

  const TrainingParts& parts_;
  const RunState& state_;
  std::optional<std::pair<ExitCode, std::string>> failure_;
  std::optional<c10::Event> copied_;  // the last batch to the device: then the loader may fill its memory again
};

/// Saving, as training sees it: on rank 0 a background writer, elsewhere nothing.
class Saver {
 public:
  Saver(const TrainingOptions& options, const RunIdentity& identity, Communicator& communicator)
      : options_(options), identity_(identity), communicator_(communicator) {
    if (communicator.rank() != 0) return;
    writer_ = std::make_unique<BackgroundWriter>(options.directory, options.keep, options.is_directory_lost);
  }

  void save(const RunState& state) {
    if (!writer_) return;
    const Stopwatch watch;
    const Snapshot snapshot = take_snapshot(state, identity_);
    while (!writer_->wait_for_room(kSlice)) communicator_.progress();
    writer_->submit(state.step, snapshot.contents);
    blocked_seconds_ += watch.seconds();
  }

  /// Failed saves in a row as rank 0 knows; reports new ones.
  int failures() {
    if (!writer_) return 0;
    if (const auto message = writer_->take_failure()) {
      last_failure_ = *message;
      log_warning("a checkpoint could not be saved ({} in a row): {}", writer_->consecutive_failures(), *message);
    }
    return writer_->consecutive_failures();
  }

  bool is_directory_lost() const { return options_.is_directory_lost && options_.is_directory_lost(); }

  [[noreturn]] void leave_directory() const {
    throw DirectoryInUseError(
        fmt::format("the lock of {} was taken over or removed: this run leaves the directory as it is",
                    options_.directory.string()));
  }

  [[noreturn]] void give_up() {
    throw StorageError(communicator_.broadcast_text(
        fmt::format("{} checkpoints in a row could not be saved: {}", kFailedSavesAllowed, last_failure_), 0));
  }

  /// The run's last checkpoint: waits until it is published, trying again where that fails. Collective.
  void save_last(const RunState& state) {
    for (;;) {
      int failed = 0;
      if (writer_) {
        if (writer_->published_step() != state.step) save(state);
        while (!writer_->wait_until_idle(kSlice)) communicator_.progress();
        failed = failures();
        if (writer_->published_step() == state.step) failed = 0;
      }
      if (communicator_.any(failed > 0 && is_directory_lost())) leave_directory();
      if (communicator_.any(failed >= kFailedSavesAllowed)) give_up();
      if (!communicator_.any(failed > 0)) return;
    }
  }

  double blocked_seconds() const { return blocked_seconds_; }
  const RunIdentity& identity() const { return identity_; }

 private:
  const TrainingOptions& options_;
  const RunIdentity& identity_;
  Communicator& communicator_;
  std::unique_ptr<BackgroundWriter> writer_;
  std::string last_failure_;
  double blocked_seconds_ = 0.0;
};

ScheduleTime time_of(const TrainingParts& parts, const TrainingOptions& options, std::int64_t step) {
  if (options.collection) step = std::min(step, options.collection->first);
  return {.step = step,
          .total_steps = options.total_steps,
          .epoch = parts.plan.epochs(step),
          .warmup_steps = options.lr_warmup_steps};
}

/// What earlier fits and collections left, where this run is going to make new ones.
void forget_fits(const TrainingOptions& options, RunState& state) {
  const bool stale =
      options.laplace ? state.step < options.total_steps : options.collection && state.step < options.collection->first;
  if (!stale) return;
  state.posterior.kept().zero_();
  state.posterior.set_collected(0);
}

void collect_if_due(const TrainingOptions& options, RunState& state) {
  if (!options.collection) return;
  const auto [first, every] = *options.collection;
  if (state.step < first || (state.step - first) % every != 0) return;
  state.posterior.collect(state.step == first || state.posterior.collected() == 0);
}

Outcome run_steps(const TrainingParts& parts, const TrainingOptions& options, Saver& saver, RunState& state,
                  const std::function<void(const StepReport&)>& report) {
  DealtUpdate dealt(state, parts.communicator, parts.estimator.share());
  Reading reading(parts, state);
  const double seconds_before = state.history.size() > 0 ? state.history.column("history/seconds").back() : 0.0;
  const Stopwatch run_watch;
  state.finished = state.step >= options.total_steps;
  forget_fits(options, state);
  bool stopping = stop_requested() && state.step < options.total_steps;
  stopping = parts.communicator.any(stopping);
  const auto saving_seconds = [&] { return saver.blocked_seconds() + dealt.gathering_seconds(); };
  double saving_told = 0.0;  // a save follows its step's record: the next one tells of it

  set_phase("training");
  while (state.step < options.total_steps && !stopping) {
    set_step(state.step + 1);
    const double data_before = parts.loader.waited_seconds();
    const double communication_before = parts.estimator.waited_seconds() + dealt.waited_seconds();
    const int failed_saves = saver.failures();
    double flags[kFlags] = {};
    flags[kStop] = stop_requested() ? 1.0 : 0.0;
    flags[kSavesFailed] = failed_saves >= kFailedSavesAllowed ? 1.0 : 0.0;
    flags[kDirectoryLost] = saver.is_directory_lost() ? 1.0 : 0.0;

    const Objective::Weights weights = options.objective.weights(state.step);
    const auto examples_in_all = static_cast<double>(options.objective.dataset_size);
    kernels::NoiseStream mixing{.seed = saver.identity().seed,
                                .purpose = kernels::Purpose::mixing,
                                .step = static_cast<std::uint32_t>(state.step),
                                .shard = static_cast<std::uint32_t>(parts.estimator.first_shard())};
    const StepTotals totals = parts.estimator.run(
        state.step,
        [&] {
          Examples examples = reading.next();
          if (reading.failure()) flags[kDataFailed] = 1.0;  // the estimator reads the flags after its shards
          mix_examples(parts.likelihood, mixing, examples);
          ++mixing.shard;
          return examples;
        },
        flags, weights.cross_entropy / examples_in_all);
    if (totals.flags[kDataFailed] > 0.0) parts.communicator.agree(reading.failure());
    if (totals.flags[kDirectoryLost] > 0.0) saver.leave_directory();
    if (totals.flags[kSavesFailed] > 0.0) saver.give_up();
    if (!totals.finite) report_not_finite(parts, state, "the loss");

    const double factor = learning_rate_factor(options.schedule, time_of(parts, options, state.step));
    const bool last = state.step + 1 == options.total_steps;
    GradientSum gradient = parts.estimator.gradient();
    ComplexitySums complexity;
    complexity.terms = add_closed_form_terms(
        state.posterior, {weights.cross_entropy / examples_in_all, weights.entropy / examples_in_all},
        parts.estimator.gradient_multiplier(), gradient);
    dealt.sum(complexity.terms);
    append_charged_terms(state.posterior.plan(), totals.prior_nats, complexity.terms);
    Optimizer::Result update = state.optimizer.step(
        gradient, {.number = state.step,
                   .learning_rate_factor = factor,
                   .gradient_multiplier = parts.estimator.gradient_multiplier(),
                   .weights = weights,
                   .dataset_size = options.objective.dataset_size,
                   .next_draw = last ? std::nullopt : std::optional(parts.estimator.first_draw(state.step + 1)),
                   .share = dealt.share(),
                   .sum_over_ranks = [&](std::vector<kernels::SegmentSums>& sums) { dealt.sum(sums); }});
    if (!std::isfinite(update.gradient_norm)) report_not_finite(parts, state, "the gradient");
    if (!last) dealt.spread_draw();
    complexity.kernels = std::move(update.sums);
    const ObjectiveValue value = evaluate_objective(options.objective, weights, {totals.mean_nll, totals.minimised_nll},
                                                    state.posterior.plan(), complexity);

    ++state.step;
    state.epoch = parts.plan.epochs(state.step);
    state.finished = state.step == options.total_steps;
    collect_if_due(options, state);
    const StepRecord record{
        .step = state.step,
        .epoch = state.epoch,
        .elbo = value.elbo,
        .objective = value.objective,
        .expected_log_likelihood = value.expected_log_likelihood,
        .kl = value.kl,
        .learning_rate = state.optimizer.options().learning_rate * factor,
        .gradient_norm = update.gradient_norm,
        .accuracy = totals.accuracy,
        .seconds = seconds_before + run_watch.seconds(),
        .data_seconds = parts.loader.waited_seconds() - data_before,
        .communication_seconds = parts.estimator.waited_seconds() + dealt.waited_seconds() - communication_before,
        .checkpoint_seconds = saving_seconds() - saving_told};
    saving_told = saving_seconds();
    state.history.append(record);
    check_divergence(state);
    stopping = totals.flags[kStop] > 0.0 || (options.stop_after > 0 && state.step >= options.stop_after);
    if (!state.finished && !stopping && options.checkpoint_every > 0 && state.step % options.checkpoint_every == 0) {
      dealt.gather();
      require_finite(state);
      saver.save(state);
      dealt.deal();
    }
    report({record, options.total_steps});
  }
  dealt.gather();
  require_finite(state);
  if (state.finished && options.laplace) {
    set_phase("fit of the Laplace approximation");
    state.numbers = fit_laplace({state.network, state.posterior, parts.likelihood, parts.source, parts.communicator},
                                *options.laplace);
  }
  set_phase("last save");
  set_step(state.step);
  saver.save_last(state);
  return state.finished ? Outcome::finished : Outcome::stopped;
}

}  // namespace

Outcome train(const TrainingParts& parts, const TrainingOptions& options, const RunIdentity& identity, RunState& state,
              const std::function<void(const StepReport&)>& report) {
  Saver saver(options, identity, parts.communicator);
  try {
    return run_steps(parts, options, saver, state, report);
  } catch (const std::exception&) {
    if (options.on_failure) options.on_failure();
    throw;
  }
}

}  // namespace credence
