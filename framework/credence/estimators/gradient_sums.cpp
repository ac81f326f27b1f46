#include "credence/estimators/gradient_sums.h"

#include <algorithm>
#include <bit>

#include "credence/base/errors.h"

namespace credence {

namespace {

/// The gradient in memory that nobody else reads or writes: a second holder is another parameter's gradient that
/// backward made as a view of the same memory.
torch::Tensor exclusive(const torch::Tensor& gradient) {
  const bool own = gradient.is_contiguous() && gradient.storage().use_count() == 1;
  return own ? gradient : gradient.clone(torch::MemoryFormat::Contiguous);
}

/// Zeros in what is used of an arena. The rest is never touched and takes no memory on a CPU.
torch::Tensor arena_for_sums(const Posterior& posterior, const std::vector<bool>& unused) {
  if (std::find(unused.begin(), unused.end(), true) == unused.end()) return torch::zeros_like(posterior.mean());
  torch::Tensor arena = torch::empty_like(posterior.mean());
  const auto& slots = posterior.layout().slots;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t end = i + 1 < slots.size() ? slots[i + 1].offset : arena.numel();
    if (!unused[i]) arena.narrow(0, slots[i].offset, end - slots[i].offset).zero_();
  }
  return arena;
}

}  // namespace

GradientSums::GradientSums(Posterior& posterior, const Options& options) : posterior_(posterior), options_(options) {
  const bool single = options_.local_shards == 1 && options_.samples == 1;
  if (!single || options_.two_sums) options_.in_place.clear();
  seen_.resize(posterior.segments().size());
  seen_scale_.resize(posterior.segments().size());
  in_place_.resize(posterior.segments().size());
  std::vector<bool> unused(seen_.size());
  for (std::size_t i = 0; i < unused.size(); ++i) unused[i] = stays(i) || !posterior.works_on(static_cast<int>(i));
  if (std::find(unused.begin(), unused.end(), false) == unused.end()) return;
  const int depth = std::bit_width(static_cast<unsigned>(options_.local_shards));
  for (int level = 0; level < depth; ++level) {
    levels_.push_back(
        {arena_for_sums(posterior, unused), options_.two_sums ? arena_for_sums(posterior, unused) : torch::Tensor()});
  }
}

void GradientSums::begin_step() {
  pass_ = 0;
  std::fill(in_place_.begin(), in_place_.end(), torch::Tensor());
}

void GradientSums::begin_pass(const kernels::NoiseStream& noise) {
  noise_ = noise;
  for (std::size_t i = 0; i < seen_.size(); ++i) seen_[i] = !posterior_.works_on(static_cast<int>(i));
  std::fill(seen_scale_.begin(), seen_scale_.end(), false);
  // A binary counter: before shard i there is one partial sum for every set bit of i.
  const auto shard = static_cast<unsigned>(pass_ / options_.samples);
  const bool last_sample = pass_ % options_.samples == options_.samples - 1;
  const bool last_shard = static_cast<int>(shard) == options_.local_shards - 1;
  depth_ = std::popcount(shard);
  merges_ = !last_sample ? 0 : last_shard ? depth_ : std::countr_one(shard);
}

bool GradientSums::take(int slot, const torch::Tensor& gradient) {
  const auto index = static_cast<std::size_t>(slot);
  seen_[index] = true;
  if (stays(index)) {
    in_place_[index] = exclusive(gradient);
    return true;
  }
  const kernels::Segment& segment = posterior_.segments()[index];
  ArenaKernels& kernels = posterior_.kernels();
  const bool accumulate = pass_ % options_.samples != 0;
  const Level& own = levels_[static_cast<std::size_t>(depth_)];
  const bool both = options_.two_sums && segment.gaussian && !is_apart(index);
  kernels.accumulate(segment, gradient.contiguous(), noise_, accumulate, own.sum, both ? own.scaled : torch::Tensor());
  for (int level = depth_; level > depth_ - merges_; --level) {
    const Level& right = levels_[static_cast<std::size_t>(level)];
    const Level& left = levels_[static_cast<std::size_t>(level - 1)];
    kernels.add(segment, right.sum, left.sum);
    if (both) kernels.add(segment, right.scaled, left.scaled);
  }
  return is_last_pass() && (!is_apart(index) || seen_scale_[index]);
}

bool GradientSums::take_scale(int slot, const torch::Tensor& gradient, bool times_eps) {
  const auto index = static_cast<std::size_t>(slot);
  ensure(is_apart(index) && options_.two_sums, "a gradient of a scale that no sum expects");
  seen_scale_[index] = true;
  const kernels::Segment& segment = posterior_.segments()[index];
  ArenaKernels& kernels = posterior_.kernels();
  const bool accumulate = pass_ % options_.samples != 0;
  const torch::Tensor& own = levels_[static_cast<std::size_t>(depth_)].scaled;
  if (times_eps) {
    if (!scratch_.defined()) scratch_ = torch::zeros_like(own);
    kernels.accumulate(segment, gradient.contiguous(), noise_, accumulate, scratch_, own);
  } else {
    kernels.accumulate(segment, gradient.contiguous(), noise_, accumulate, own, {});
  }
  for (int level = depth_; level > depth_ - merges_; --level) {
    kernels.add(segment, levels_[static_cast<std::size_t>(level)].scaled,
                levels_[static_cast<std::size_t>(level - 1)].scaled);
  }
  return is_last_pass() && seen_[index];
}

int GradientSums::end_pass() {
  ++pass_;
  const auto missing = std::find(seen_.begin(), seen_.end(), false);
  return missing == seen_.end() ? -1 : static_cast<int>(missing - seen_.begin());
}

GradientSum GradientSums::result() const {
  GradientSum gradient;
  gradient.noise = noise_;
  const auto segments = posterior_.segments();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (!posterior_.works_on(static_cast<int>(i))) {
      gradient.slots.push_back(torch::empty({0}, posterior_.mean().options()));
    } else {
      gradient.slots.push_back(in_place_[i].defined() ? in_place_[i]
                                                      : sum().narrow(0, segments[i].offset, segments[i].count));
    }
  }
  if (!levels_.empty()) gradient.scaled = scaled_sum();
  return gradient;
}

}  // namespace credence
