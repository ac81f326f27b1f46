#include "credence/estimators/gradient_sums.h"

#include <algorithm>
#include <bit>

#include "credence/base/errors.h"

namespace credence {

GradientSums::GradientSums(Posterior& posterior, const Options& options) : posterior_(posterior), options_(options) {
  const bool single = options_.local_shards == 1 && options_.samples == 1;
  options_.keep_in_place = options_.keep_in_place && single && !options_.two_sums;
  seen_.resize(posterior.segments().size());
  seen_scale_.resize(posterior.segments().size());
  in_place_.resize(posterior.segments().size());
  if (options_.keep_in_place) return;
  const int depth = std::bit_width(static_cast<unsigned>(options_.local_shards));
  for (int level = 0; level < depth; ++level) {
    levels_.push_back({torch::zeros_like(posterior.mean()),
                       options_.two_sums ? torch::zeros_like(posterior.mean()) : torch::Tensor()});
  }
}

void GradientSums::begin_step() {
  pass_ = 0;
}

void GradientSums::begin_pass(const kernels::NoiseStream& noise) {
  noise_ = noise;
  std::fill(seen_.begin(), seen_.end(), false);
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
  if (options_.keep_in_place) {
    in_place_[index] = gradient.contiguous();
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
  if (options_.keep_in_place) {
    gradient.slots = in_place_;
    return gradient;
  }
  for (const kernels::Segment& segment : posterior_.segments()) {
    gradient.slots.push_back(sum().narrow(0, segment.offset, segment.count));
  }
  gradient.scaled = scaled_sum();
  return gradient;
}

}  // namespace credence
