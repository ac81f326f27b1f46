#pragma once

#include <torch/torch.h>

#include <vector>

#include "credence/posteriors/posterior.h"

namespace credence::test {

/// Mean-field and point tensors under normal priors, one a segment.
inline PosteriorPlan plan_over(const std::vector<kernels::Segment>& segments, std::int64_t elements) {
  PosteriorPlan plan;
  for (const kernels::Segment& segment : segments) {
    Slot slot;
    slot.name = "tensor" + std::to_string(plan.layout.slots.size());
    slot.shape = {segment.count};
    slot.offset = segment.offset;
    slot.count = segment.count;
    plan.layout.slots.push_back(slot);
    plan.families.push_back({segment.gaussian ? Family::Kind::mean_field : Family::Kind::point, 0.0});
    plan.priors.emplace_back(NormalPrior{segment.prior_scale});
  }
  plan.layout.elements = plan.network_elements = elements;
  plan.network_slots = static_cast<int>(segments.size());
  plan.segments = segments;
  return plan;
}

inline Posterior posterior_over(const std::vector<kernels::Segment>& segments, const torch::Tensor& values,
                                double initial_scale = 0.2) {
  return {plan_over(segments, values.numel()), values, initial_scale, 1};
}

}  // namespace credence::test
