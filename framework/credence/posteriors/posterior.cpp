#include "credence/posteriors/posterior.h"

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"

namespace credence {
namespace {

/// The network's values in an arena that has room for further arrays too.
torch::Tensor extended(const torch::Tensor& values, std::int64_t elements) {
  if (values.numel() == elements) return values;
  torch::Tensor arena = torch::zeros({elements}, values.options());
  arena.narrow(0, 0, values.numel()).copy_(values);
  return arena;
}

}  // namespace

Posterior::Posterior(PosteriorPlan plan, const torch::Tensor& values, double initial_scale, int threads,
                     std::uint64_t seed)
    : plan_(std::move(plan)),
      segments_(plan_.segments),
      worked_on_{0, plan_.members},
      kernels_(values.scalar_type(), values.device(), threads),
      mean_(extended(values, plan_.layout.elements)),
      structure_of_slot_(plan_.layout.slots.size(), nullptr) {
  ensure(values.numel() == plan_.network_elements, "initial values and layout differ");
  for (const auto& structure : plan_.structures) {
    for (const int slot : structure->slots()) structure_of_slot_[static_cast<std::size_t>(slot)] = structure.get();
  }
  start_arrays(seed);
  const auto& segments = plan_.segments;
  if (std::any_of(segments.begin(), segments.end(), [](const auto& segment) { return segment.gaussian; })) {
    require(initial_scale > 0.0 && std::isfinite(initial_scale), "--initial-scale must be positive, not {}",
            initial_scale);
    raw_scale_ = torch::zeros_like(mean_);
    for (const auto& segment : segments) {
      if (segment.gaussian) {
        raw_scale_.narrow(0, segment.offset, segment.count).fill_(kernels::inverse_softplus(initial_scale));
      }
    }
  }
  if (plan_.kept.elements > 0) kept_ = torch::zeros({plan_.kept.elements}, mean_.options());
  linearized_ = std::any_of(plan_.families.begin(), plan_.families.end(),
                            [](const Family& family) { return family.kind == Family::Kind::laplace; });
  weights_ = is_random() ? mean_.clone() : mean_;
}

void Posterior::work_on(MemberRange members) {
  ensure(members.first >= 0 && members.first < members.last && members.last <= plan_.members,
         "members of an ensemble that it does not have");
  worked_on_ = members;
  drawn_.reset();
  segments_ = plan_.segments;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    if (!works_on(static_cast<int>(i))) segments_[i].count = 0;
  }
}

bool Posterior::works_on(int slot) const {
  const int member = plan_.member_of(slot);
  return worked_on_.first <= member && member < worked_on_.last;
}

bool Posterior::is_random() const {
  const auto& structures = plan_.structures;
  return has_gaussian() ||
         std::any_of(structures.begin(), structures.end(), [](const auto& s) { return s->is_random(); });
}

void Posterior::start_arrays(std::uint64_t seed) {
  for (const ArrayStart& start : plan_.starts) {
    torch::Tensor array = view(mean_, start.slot);
    array.fill_(start.constant);
    if (start.deviation > 0.0) {
      const kernels::NoiseStream noise{.seed = seed, .purpose = kernels::Purpose::structure};
      array.add_(normals(start.slot, noise), start.deviation);
    }
  }
}

torch::Tensor Posterior::view(const torch::Tensor& arena, int slot) const {
  const Slot& place = plan_.layout.slots[static_cast<std::size_t>(slot)];
  return arena.narrow(0, place.offset, place.count).view(place.shape);
}

torch::Tensor Posterior::kept_view(int slot) const {
  const Slot& place = plan_.kept.slots[static_cast<std::size_t>(slot)];
  return kept_.narrow(0, place.offset, place.count).view(place.shape);
}

void Posterior::collect(bool first) {
  const torch::NoGradGuard no_grad;
  if (first) {
    kept_.zero_();
    collected_ = 0;
  }
  for (const auto& structure : plan_.structures) {
    if (works_on(*structure)) structure->collect(*this, collected_);
  }
  set_collected(collected_ + 1);
}

torch::Tensor Posterior::mean_weights() const {
  torch::Tensor weights = mean_.narrow(0, 0, plan_.network_elements).clone();
  for (const auto& structure : plan_.structures) structure->write_mean(*this, weights);
  return weights;
}

torch::Tensor Posterior::scales() const {
  torch::Tensor result = torch::zeros_like(mean_);
  if (has_gaussian()) kernels_.scales(segments_, raw_scale_, result);
  return result;
}

void Posterior::draw(const kernels::NoiseStream& noise) {
  if (!is_random() || drawn_ == noise) return;
  kernels_.draw(segments_, mean_, raw_scale_, noise, weights_);
  set_drawn(noise);
}

void Posterior::set_drawn(const std::optional<kernels::NoiseStream>& noise) {
  drawn_.reset();  // a structure that refuses leaves no draw
  if (!noise) return;
  const torch::NoGradGuard no_grad;
  for (const auto& structure : plan_.structures) {
    if (works_on(*structure)) structure->draw(*this, *noise);
  }
  drawn_ = noise;
}

void Posterior::pull_back(int slot, const torch::Tensor& gradient, const Structure::Give& give) {
  Structure* const structure = structure_of_slot_[static_cast<std::size_t>(slot)];
  if (structure == nullptr) {
    give(slot, gradient);
    return;
  }
  const torch::NoGradGuard no_grad;
  give(slot, structure->pull_back(*this, slot, gradient, give));
}

torch::Tensor Posterior::normals(int slot, const kernels::NoiseStream& noise) {
  if (!scratch_.defined()) {
    scratch_ = torch::empty_like(mean_);
    normals_ = torch::empty_like(mean_);
  }
  // The sum of eps times a gradient of one.
  const Slot& place = plan_.layout.slots[static_cast<std::size_t>(slot)];
  const kernels::Segment segment{.offset = place.offset, .count = place.count, .gaussian = true};
  kernels_.accumulate(segment, torch::ones({place.count}, mean_.options()), noise, false, scratch_, normals_);
  return view(normals_, slot);
}

std::vector<kernels::SegmentSums> Posterior::measure() {
  return kernels_.measure(segments_, {}, mean_, raw_scale_, {});
}

}  // namespace credence
