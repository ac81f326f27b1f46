#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <span>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/posteriors/arena_kernels.h"

namespace credence {

/// What one of several ranks updates of a posterior that all of them hold (optimizer states sharded over ranks as in
/// Rajbhandari et al. 2020, ZeRO). Of each dealt segment the head, as many stretches as the ranks can share evenly, is
/// cut into one equal chunk a rank; the rest and the other segments every rank updates. The same bits as one rank that
/// updates everything.
class UpdateShare {
 public:
  /// The elements of the arena that are dealt, in `ranks` equal chunks.
  struct Head {
    std::int64_t offset = 0;
    std::int64_t count = 0;
  };

  /// Nothing is dealt.
  UpdateShare() = default;
  /// `dealt`: which segments are.
  UpdateShare(std::span<const kernels::Segment> segments, const std::vector<bool>& dealt, int rank, int ranks);

  /// Elements of a segment's head; the same on every rank.
  static std::int64_t head_elements(const kernels::Segment& segment, int ranks) {
    const std::int64_t unit = ranks * kernels::kSumStretch;
    return segment.count / unit * unit;
  }

  bool dealt() const { return !heads_.empty(); }
  std::span<const Head> heads() const { return heads_; }
  /// What this rank updates, a stretch each.
  std::span<const kernels::Segment> segments() const { return own_; }
  /// Of those, from what is given of whole segments.
  GradientSum gradient(const GradientSum& of_segments) const;
  std::vector<kernels::SegmentRates> rates(std::span<const kernels::SegmentRates> of_segments) const;

  /// This rank's sums in their places among those of all stretches; the others are zero, to be summed over ranks.
  std::vector<kernels::SegmentSums> placed(std::span<const kernels::SegmentSums> of_own) const;
  /// Sums of whole segments, from those of all stretches.
  std::vector<kernels::SegmentSums> of_segments(std::span<const kernels::SegmentSums> of_stretches) const;

 private:
  struct Place {
    std::size_t segment = 0;
    std::int64_t begin = 0;    // first element, counted from the segment's start
    std::size_t stretch = 0;   // among all
    bool counted_here = true;  // of what every rank updates: on one rank only
  };

  std::vector<Head> heads_;
  std::vector<kernels::Segment> own_;
  std::vector<Place> places_;                    // of `own_`
  std::vector<std::size_t> segment_of_stretch_;  // of all
  std::size_t segment_count_ = 0;
};

}  // namespace credence
