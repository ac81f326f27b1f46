#include "credence/data/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "credence/base/errors.h"
#include "credence/data/random_words.h"

namespace credence {
namespace {

constexpr std::size_t kCachedEpochs = 2;

template <class Index>
std::vector<Index> shuffled(std::int64_t count, RandomWords& random) {
  std::vector<Index> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), Index{0});
  shuffle(std::span<Index>(order), random);
  return order;
}

}  // namespace

struct SamplingPlan::Permutation {
  Permutation(std::uint64_t seed, std::int64_t epoch, std::int64_t examples) {
    RandomWords random(seed, kernels::Purpose::data_order, static_cast<std::uint64_t>(epoch));
    if (examples - 1 <= std::numeric_limits<std::int32_t>::max())
      narrow = shuffled<std::int32_t>(examples, random);
    else
      wide = shuffled<std::int64_t>(examples, random);
  }
  void append(std::int64_t first, std::int64_t count, std::vector<std::int64_t>& to) const {
    if (wide.empty())
      to.insert(to.end(), narrow.begin() + first, narrow.begin() + first + count);
    else
      to.insert(to.end(), wide.begin() + first, wide.begin() + first + count);
  }

  std::vector<std::int32_t> narrow;
  std::vector<std::int64_t> wide;
};

SamplingPlan::SamplingPlan(std::uint64_t seed, std::int64_t examples, std::int64_t batch, int shards)
    : seed_(seed), examples_(examples), batch_(batch), shards_(shards) {
  require(seed < std::uint64_t{1} << 56, "the seed {} is too large: it must be below 2^56", seed);
  require(examples > 0, "there are no examples to sample from");
  require(shards > 0, "the number of shards must be positive, got {}", shards);
  require(batch > 0 && batch % shards == 0,
          "the batch size {} is no positive multiple of the {} shards: shards are equal parts of a batch", batch,
          shards);
}

std::shared_ptr<const SamplingPlan::Permutation> SamplingPlan::permutation(std::int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  auto found = std::ranges::find(cached_, epoch, [](const auto& entry) { return entry.first; });
  if (found == cached_.end()) {
    auto made = std::make_shared<const Permutation>(seed_, epoch, examples_);
    if (cached_.size() == kCachedEpochs) cached_.erase(cached_.begin());
    found = cached_.emplace(cached_.end(), epoch, std::move(made));
  } else {
    std::rotate(found, found + 1, cached_.end());
    found = cached_.end() - 1;
  }
  return found->second;
}

SamplingPlan::Selection SamplingPlan::select(std::int64_t step, int shard) const {
  ensure(shard >= 0 && shard < shards_, "a shard outside the plan was asked for");
  ensure(step >= 0 && step < std::numeric_limits<std::int64_t>::max() / batch_,
         "a step outside the plan was asked for");

  Selection selection;
  selection.examples.reserve(static_cast<std::size_t>(shard_size()));
  selection.epochs.reserve(static_cast<std::size_t>(shard_size()));
  std::int64_t position = step * batch_ + shard * shard_size();
  for (std::int64_t left = shard_size(); left > 0;) {
    const std::int64_t epoch = position / examples_;
    const std::int64_t first = position % examples_;
    const std::int64_t count = std::min(left, examples_ - first);
    permutation(epoch)->append(first, count, selection.examples);
    selection.epochs.insert(selection.epochs.end(), static_cast<std::size_t>(count), epoch);
    position += count;
    left -= count;
  }
  return selection;
}

std::int64_t SamplingPlan::steps(double epochs) const {
  require(std::isfinite(epochs) && epochs >= 0, "the number of epochs must be zero or more, got {}", epochs);
  const double exact = epochs * static_cast<double>(examples_) / static_cast<double>(batch_);
  require(exact < 0x1p53, "{} epochs are more steps than can be counted", epochs);
  // 0.07 epochs of 100 examples come out as 7.000000000000001: a half ulp of epochs and two roundings are no step.
  const double nearest = std::round(exact);
  const double slack = 2 * std::numeric_limits<double>::epsilon() * exact;
  return static_cast<std::int64_t>(std::abs(exact - nearest) <= slack ? nearest : std::ceil(exact));
}

double SamplingPlan::epochs(std::int64_t steps) const {
  return static_cast<double>(steps) * static_cast<double>(batch_) / static_cast<double>(examples_);
}

}  // namespace credence
