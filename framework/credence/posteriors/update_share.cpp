#include "credence/posteriors/update_share.h"

#include <algorithm>

#include "credence/base/errors.h"

namespace credence {

UpdateShare::UpdateShare(std::span<const kernels::Segment> segments, const std::vector<bool>& dealt, int rank,
                         int ranks)
    : segment_count_(segments.size()) {
  ensure(dealt.size() == segments.size(), "a segment is dealt or not");
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const kernels::Segment& segment = segments[s];
    const std::int64_t head = dealt[s] ? head_elements(segment, ranks) : 0;
    if (head > 0) heads_.push_back({segment.offset, head});
    const std::int64_t chunk = head / ranks;
    for (std::int64_t begin = 0; begin < segment.count; begin += kernels::kSumStretch) {
      const bool of_all = begin >= head;
      if (of_all || begin / chunk == rank) {
        places_.push_back({s, begin, segment_of_stretch_.size(), !of_all || rank == 0});
        own_.push_back(segment);
        own_.back().offset += begin;
        own_.back().count = std::min(kernels::kSumStretch, segment.count - begin);
      }
      segment_of_stretch_.push_back(s);
    }
  }
}

GradientSum UpdateShare::gradient(const GradientSum& of_segments) const {
  GradientSum gradient = of_segments;
  gradient.places.reserve(places_.size());
  for (const Place& place : places_) gradient.places.push_back({place.segment, place.begin});
  return gradient;
}

std::vector<kernels::SegmentRates> UpdateShare::rates(std::span<const kernels::SegmentRates> of_segments) const {
  std::vector<kernels::SegmentRates> rates;
  for (const Place& place : places_) rates.push_back(of_segments[place.segment]);
  return rates;
}

std::vector<kernels::SegmentSums> UpdateShare::placed(std::span<const kernels::SegmentSums> of_own) const {
  std::vector<kernels::SegmentSums> sums(segment_of_stretch_.size());
  for (std::size_t i = 0; i < of_own.size(); ++i) {
    if (places_[i].counted_here) sums[places_[i].stretch] = of_own[i];
  }
  return sums;
}

std::vector<kernels::SegmentSums> UpdateShare::of_segments(std::span<const kernels::SegmentSums> of_stretches) const {
  std::vector<kernels::SegmentSums> sums(segment_count_);
  for (std::size_t i = 0; i < of_stretches.size(); ++i) sums[segment_of_stretch_[i]] += of_stretches[i];
  return sums;
}

}  // namespace credence
