#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/posteriors/arena_kernels.h"
#include "credence/posteriors/plan.h"

namespace credence {

/// A distribution over a network's weights, with everything that is optimised in two flat arenas: means, and raw scales
/// of Gaussian tensors (scale = softplus(raw scale), Blundell et al. 2015, sec. 3.2). The kernels draw independent
/// Gaussians and point estimates; structures of the plan make other families of them, with further arrays in the arena
/// of means. All point: MAP, the deterministic twin.
class Posterior {
 public:
  /// `values` [network's elements, over all members]: initial means; `initial_scale`: standard deviation of every
  /// Gaussian weight at the start; `seed`: of further arrays that start at random.
  Posterior(PosteriorPlan plan, const torch::Tensor& values, double initial_scale, int threads, std::uint64_t seed = 0);

  const PosteriorPlan& plan() const noexcept { return plan_; }
  /// Whether predictions are those of the network made linear at the mean, f(x; mean) + J(x) (w - mean): by default
  /// where the posterior is a Laplace approximation, whose draws do not fit the network itself (Immer et al. 2021).
  bool linearized() const noexcept { return linearized_; }
  void set_linearized(bool linearized) { linearized_ = linearized; }
  /// The network's slots, then further arrays; parallel to segments().
  const Layout& layout() const noexcept { return plan_.layout; }
  /// Of the members that are not worked on, segments are empty.
  std::span<const kernels::Segment> segments() const noexcept { return segments_; }
  /// From now on only these members of an ensemble are drawn, measured, collected and updated: the values of the others
  /// stay what they were. At first all.
  void work_on(MemberRange members);
  MemberRange worked_on() const noexcept { return worked_on_; }
  bool works_on_all() const noexcept { return worked_on_.last - worked_on_.first == plan_.members; }
  bool works_on(int slot) const;
  /// Null where the kernels' draw of a slot is the draw.
  const Structure* structure_of(int slot) const { return structure_of_slot_[static_cast<std::size_t>(slot)]; }
  bool has_gaussian() const noexcept { return raw_scale_.defined(); }
  /// Whether two draws differ.
  bool is_random() const;

  const torch::Tensor& mean() const noexcept { return mean_; }            // [elements]
  const torch::Tensor& raw_scale() const noexcept { return raw_scale_; }  // [elements]; undefined without Gaussians
  /// The newest draw; the means themselves where nothing is random. [elements]
  const torch::Tensor& weights() const noexcept { return weights_; }
  /// What a network binds to: the part of weights() that is its own, or one member's of an ensemble.
  torch::Tensor network_weights(int member = 0) const { return member_part(weights_, member); }
  /// A new arena with the mean of the weights under q, the network's part over all members.
  torch::Tensor mean_weights() const;
  torch::Tensor member_part(const torch::Tensor& arena, int member) const {
    return arena.narrow(0, member * plan_.member_elements(), plan_.member_elements());
  }
  /// A new arena with standard deviations of the kernels' Gaussians; zero on other segments.
  torch::Tensor scales() const;
  /// One slot's part of an arena, in the slot's shape.
  torch::Tensor view(const torch::Tensor& arena, int slot) const;

  /// weights() <- a draw. Costs nothing where the newest draw is this one.
  void draw(const kernels::NoiseStream& noise);
  /// The update wrote the kernels' part of the draw of `noise` into weights() already, or (nullopt) the means changed
  /// without one.
  void set_drawn(const std::optional<kernels::NoiseStream>& noise);
  /// The noise of the newest draw.
  const kernels::NoiseStream& drawn() const { return *drawn_; }
  /// A gradient with respect to the drawn weights of a network's slot becomes gradients of optimised arrays.
  void pull_back(int slot, const torch::Tensor& gradient, const Structure::Give& give);

  /// Arrays that are not optimised: over plan().kept, undefined where there are none.
  const torch::Tensor& kept() const noexcept { return kept_; }
  torch::Tensor kept_view(int slot) const;
  /// How many iterates (swag) or fits (laplace: 0 or 1) the kept arrays are made of.
  std::int64_t collected() const noexcept { return collected_; }
  void set_collected(std::int64_t count) {
    collected_ = count;
    drawn_.reset();
  }
  /// The present means join the kept arrays; `first`: what these hold is forgotten.
  void collect(bool first);

  /// Standard normal numbers of one slot's elements, as the kernels draw them, in the slot's shape.
  torch::Tensor normals(int slot, const kernels::NoiseStream& noise);

  /// Sums per slot of the present values, of which KL, entropy and log prior are made.
  std::vector<kernels::SegmentSums> measure();

  ArenaKernels& kernels() noexcept { return kernels_; }

 private:
  void start_arrays(std::uint64_t seed);

  bool works_on(const Structure& structure) const { return works_on(structure.slots().front()); }

  PosteriorPlan plan_;
  std::vector<kernels::Segment> segments_;
  MemberRange worked_on_;
  mutable ArenaKernels kernels_;
  torch::Tensor mean_;
  torch::Tensor raw_scale_;
  torch::Tensor weights_;
  torch::Tensor kept_;
  std::int64_t collected_ = 0;
  bool linearized_ = false;
  std::optional<kernels::NoiseStream> drawn_;
  std::vector<Structure*> structure_of_slot_;  // null: the kernels' draw is the draw
  torch::Tensor scratch_, normals_;            // [elements], made when first needed
};

}  // namespace credence
