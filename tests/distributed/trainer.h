// A network, its posterior and an estimator over a communicator: what tests of training over ranks begin with.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/mpi_test.h"
#include "unit/estimators/cases.h"

namespace credence::test {

inline constexpr int kShards = 4;

inline std::unique_ptr<Communicator> over_mpi() {
  MpiOptions options;
  options.timeout_seconds = 60.0;
  return make_mpi_communicator(credence::testing::mpi_session(), options);
}

inline ProblemOptions normalized() {
  return {.network = "normalized", .inputs = 33, .dtype = torch::kFloat32};
}

/// A network, its posterior and optimizer, and the estimator that trains them over a communicator.
struct Trainer {
  Trainer(Communicator& over, const Estimator::Options& options, const ProblemOptions& chosen = normalized(),
          const OptimizerOptions& rule = {.learning_rate = 0.05}, const std::string& name = "reparam")
      : communicator(over),
        problem(chosen),
        optimizer(problem.posterior, rule),
        owned(test::make_estimator(name, problem.parts(over), options)),
        estimator(*owned) {}

  /// `flags` beside the losses; the update follows.
  void step(std::int64_t number, std::span<const double> flags = {}) {
    const auto examples = test::examples_of(problem, kShards, 5, 0.9 + 0.1 * static_cast<double>(number));
    const auto next = test::source_of(examples, estimator.first_shard());
    shards_run = 0;
    totals = estimator.run(
        number, [&] { return ++shards_run, next(); }, flags);
    gradient = estimator.gradient();
    sums = {};
    for (const torch::Tensor& slot : gradient.slots) sums.push_back(slot.flatten().clone());
    if (gradient.scaled.defined()) {
      for (const auto& segment : problem.posterior.segments()) {
        if (segment.gaussian) sums.push_back(gradient.scaled.narrow(0, segment.offset, segment.count).clone());
      }
    }
    optimizer.step(gradient, {.number = number,
                              .gradient_multiplier = estimator.gradient_multiplier(),
                              .weights = {},
                              .dataset_size = 100,
                              .next_draw = estimator.first_draw(number + 1)});
  }

  /// Everything of the last step and what it left behind.
  std::vector<torch::Tensor> bits() const {
    std::vector<torch::Tensor> list = sums;
    const auto add = [&](const torch::Tensor& arena) {
      for (const auto& segment : problem.posterior.segments())
        list.push_back(arena.narrow(0, segment.offset, segment.count));
    };
    add(problem.posterior.mean());
    if (problem.posterior.has_gaussian()) add(problem.posterior.raw_scale());
    for (const auto& [name, arena] : optimizer.state()) add(arena);
    for (const auto& [name, buffer] : problem.network.float_buffers()) list.push_back(buffer);
    for (const auto& [name, buffer] : problem.network.integer_buffers()) list.push_back(buffer);
    list.push_back(torch::tensor({totals.mean_nll, totals.minimised_nll, totals.accuracy}, torch::kFloat64));
    return list;
  }

  Communicator& communicator;
  Problem problem;
  Optimizer optimizer;
  std::unique_ptr<Estimator> owned;
  Estimator& estimator;
  StepTotals totals;
  GradientSum gradient;
  std::vector<torch::Tensor> sums;
  int shards_run = 0;
};

}  // namespace credence::test
