#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "credence/data/sampling.h"

namespace credence::test {

struct PlanArguments {
  std::uint64_t seed = 0;
  std::int64_t examples = 1;
  std::int64_t shard_size = 1;
  int shards = 1;

  std::int64_t batch() const { return shard_size * shards; }
  SamplingPlan plan(int of_shards) const { return SamplingPlan(seed, examples, batch(), of_shards); }
};

/// What a plan that deals into `shards` parts reads in its first steps, all shards in order.
inline SamplingPlan::Selection first_steps(const SamplingPlan& plan, std::int64_t steps) {
  SamplingPlan::Selection all;
  for (std::int64_t step = 0; step < steps; ++step)
    for (int shard = 0; shard < plan.shards(); ++shard) {
      const SamplingPlan::Selection part = plan.select(step, shard);
      EXPECT_EQ(part.examples.size(), static_cast<std::size_t>(plan.shard_size()));
      all.examples.insert(all.examples.end(), part.examples.begin(), part.examples.end());
      all.epochs.insert(all.epochs.end(), part.epochs.begin(), part.epochs.end());
    }
  return all;
}

/// Every law of a sampling plan, over three epochs. False where one is broken.
inline bool laws_hold(const PlanArguments& arguments) {
  const SamplingPlan plan = arguments.plan(arguments.shards);
  const std::int64_t steps = plan.steps(3);
  const SamplingPlan::Selection all = first_steps(plan, steps);
  const auto total = static_cast<std::int64_t>(all.examples.size());

  // Three epochs fit into the steps, and into no fewer.
  bool good = total >= 3 * plan.examples() && total - plan.batch() < 3 * plan.examples();
  // Batches run on across the borders of epochs: each run of N examples holds every one once.
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    const auto begin = all.examples.begin() + epoch * plan.examples();
    std::vector<std::int64_t> sorted(begin, begin + plan.examples());
    std::ranges::sort(sorted);
    for (std::int64_t i = 0; i < plan.examples(); ++i) good = good && sorted[static_cast<std::size_t>(i)] == i;
  }
  for (std::int64_t k = 0; k < total; ++k)
    good = good && all.epochs[static_cast<std::size_t>(k)] == k / plan.examples();
  // The shards of a step, joined, are the global batch, however many there are.
  const SamplingPlan whole = arguments.plan(1);
  const SamplingPlan::Selection joined = first_steps(whole, steps);
  good = good && joined.examples == all.examples && joined.epochs == all.epochs;
  // A pure function: another plan, asked backwards, says the same.
  const SamplingPlan again = arguments.plan(arguments.shards);
  for (std::int64_t step = steps - 1; step >= 0; --step)
    for (int shard = plan.shards() - 1; shard >= 0; --shard) {
      const auto begin = all.examples.begin() + step * plan.batch() + shard * plan.shard_size();
      good = good && std::ranges::equal(again.select(step, shard).examples,
                                        std::vector<std::int64_t>(begin, begin + plan.shard_size()));
    }
  return good;
}

}  // namespace credence::test
