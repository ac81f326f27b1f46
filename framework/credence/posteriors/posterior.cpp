#include "credence/posteriors/posterior.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

bool same_stream(const kernels::NoiseStream& a, const kernels::NoiseStream& b) {
  return a.seed == b.seed && a.purpose == b.purpose && a.step == b.step && a.shard == b.shard && a.sample == b.sample &&
         a.negate == b.negate;
}

const std::vector<std::string> kFamilies = {"mean-field", "point"};

Family parse_family(const std::string& text) {
  if (text == kFamilies[0]) return Family::mean_field;
  if (text == kFamilies[1]) return Family::point;
  refuse_unknown("posterior", text, kFamilies);
}

}  // namespace

TensorRules<Family> parse_families(const std::vector<std::string>& specs) {
  return parse_rules(specs, Family::mean_field, kFamilies, parse_family);
}

std::vector<kernels::Segment> plan_segments(const Layout& layout, const TensorRules<Family>& families,
                                            const TensorRules<Prior>& priors) {
  require_rules_to_match(families, layout);
  require_rules_to_match(priors, layout);
  std::vector<kernels::Segment> segments;
  for (const Slot& slot : layout.slots) {
    const Family* family = families.exception_for(slot.name);
    const Prior* prior = priors.exception_for(slot.name);
    const bool left_to_default = slot.is_norm && family == nullptr;
    kernels::Segment segment;
    segment.offset = slot.offset;
    segment.count = slot.count;
    segment.gaussian = !left_to_default && (family != nullptr ? *family : families.fallback) == Family::mean_field;
    segment.prior_scale = prior != nullptr  ? prior_scale(*prior, slot)
                          : left_to_default ? std::numeric_limits<double>::infinity()
                                            : prior_scale(priors.fallback, slot);
    require(!segment.gaussian || std::isfinite(segment.prior_scale),
            "{} has a mean-field posterior and no prior: its scale would grow without bound; give it a prior, or use "
            "--posterior point",
            slot.name);
    segments.push_back(segment);
  }
  return segments;
}

Posterior::Posterior(std::vector<kernels::Segment> segments, torch::Tensor values, double initial_scale, int threads)
    : segments_(std::move(segments)),
      kernels_(values.scalar_type(), values.device(), threads),
      mean_(std::move(values)) {
  const bool gaussian = std::any_of(segments_.begin(), segments_.end(), [](const auto& s) { return s.gaussian; });
  if (!gaussian) {
    weights_ = mean_;
    return;
  }
  require(initial_scale > 0.0 && std::isfinite(initial_scale), "--initial-scale must be positive, not {}",
          initial_scale);
  raw_scale_ = torch::zeros_like(mean_);
  for (const auto& segment : segments_) {
    if (segment.gaussian) {
      raw_scale_.narrow(0, segment.offset, segment.count).fill_(kernels::inverse_softplus(initial_scale));
    }
  }
  weights_ = mean_.clone();
}

torch::Tensor Posterior::scales() {
  torch::Tensor result = torch::zeros_like(mean_);
  if (has_gaussian()) kernels_.scales(segments_, raw_scale_, result);
  return result;
}

void Posterior::draw(const kernels::NoiseStream& noise) {
  if (!has_gaussian() || (drawn_ && same_stream(*drawn_, noise))) return;
  kernels_.draw(segments_, mean_, raw_scale_, noise, weights_);
  drawn_ = noise;
}

std::vector<kernels::SegmentSums> Posterior::measure() {
  return kernels_.measure(segments_, {}, mean_, raw_scale_, {});
}

}  // namespace credence
