#include <cmath>

#include "credence/base/errors.h"
#include "credence/posteriors/posterior.h"
#include "credence/posteriors/structures.h"

namespace credence {
namespace {

bool in_prediction(const kernels::NoiseStream& noise) {
  return noise.purpose == kernels::Purpose::prediction;
}

/// What Laplace's and swag's have in common: training sees the means.
class Fitted : public Structure {
 public:
  explicit Fitted(std::vector<int> slots) : Structure(std::move(slots)) {}
  torch::Tensor pull_back(Posterior&, int, const torch::Tensor& gradient, const Give&) override { return gradient; }

 protected:
  static void require_fitted(const Posterior& posterior) {
    require(posterior.collected() >= 1,
            "the posterior laplace is fitted when training ends, and this run has not ended: the same credence train "
            "command continues it");
  }
};

class DiagonalLaplace final : public Fitted {
 public:
  DiagonalLaplace(PosteriorPlan& plan, std::vector<int> slots) : Fitted(std::move(slots)) {
    for (const int slot : this->slots()) {
      precision_.push_back(plan.keep_array(slot, "precision", plan.layout.slots[static_cast<std::size_t>(slot)].shape));
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    if (!in_prediction(noise)) return;
    require_fitted(posterior);
    for (std::size_t i = 0; i < slots().size(); ++i) {
      const torch::Tensor scale = posterior.kept_view(precision_[i]).rsqrt();
      posterior.view(posterior.weights(), slots()[i]).add_(posterior.normals(slots()[i], noise) * scale);
    }
  }

 private:
  std::vector<int> precision_;  // kept, by place in slots()
};

class LastLayerLaplace final : public Fitted {
 public:
  LastLayerLaplace(PosteriorPlan& plan, std::vector<int> slots) : Fitted(std::move(slots)) {
    std::int64_t weights = 0;
    for (const int slot : this->slots()) weights += plan.layout.slots[static_cast<std::size_t>(slot)].count;
    require(weights <= kLastLayerLimit,
            "--posterior laplace:last-layer keeps a covariance over all of the layer's {} weights, and {} is the most; "
            "use laplace for that layer, as in '--posterior point --posterior {}=laplace'",
            weights, kLastLayerLimit, plan.layout.slots[static_cast<std::size_t>(this->slots().front())].name);
    for (const int slot : this->slots()) {
      root_.push_back(
          plan.keep_array(slot, "covariance_root", {plan.layout.slots[static_cast<std::size_t>(slot)].count, weights}));
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    if (!in_prediction(noise)) return;
    require_fitted(posterior);
    std::vector<torch::Tensor> parts;
    for (const int slot : slots()) parts.push_back(posterior.normals(slot, noise).flatten().clone());
    const torch::Tensor eps = torch::cat(parts);
    for (std::size_t i = 0; i < slots().size(); ++i) {
      torch::Tensor weights = posterior.view(posterior.weights(), slots()[i]);
      weights.add_(torch::mv(posterior.kept_view(root_[i]), eps).view(weights.sizes()));
    }
  }

 private:
  std::vector<int> root_;  // kept, by place in slots()
};

class Swag final : public Fitted {
 public:
  Swag(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank) : Fitted(std::move(slots)), rank_(rank) {
    for (const int slot : this->slots()) {
      std::vector<std::int64_t> shape = plan.layout.slots[static_cast<std::size_t>(slot)].shape;
      Arrays arrays;
      arrays.average = plan.keep_array(slot, "average", shape);
      arrays.variance = plan.keep_array(slot, "variance", shape);
      shape.insert(shape.begin(), rank);
      arrays.deviations = plan.keep_array(slot, "deviations", std::move(shape));
      arrays_.push_back(arrays);
    }
  }

  /// Running moments without cancellation (Welford 1962): the variance is that of mean square less squared mean.
  void collect(Posterior& posterior, std::int64_t collected) override {
    const auto count = static_cast<double>(collected + 1);
    for (std::size_t i = 0; i < slots().size(); ++i) {
      const torch::Tensor iterate = posterior.view(posterior.mean(), slots()[i]);
      torch::Tensor average = posterior.kept_view(arrays_[i].average);
      const torch::Tensor before = iterate - average;
      average.add_(before, 1.0 / count);
      const torch::Tensor deviation = iterate - average;
      posterior.kept_view(arrays_[i].variance).mul_((count - 1.0) / count).add_(before * deviation, 1.0 / count);
      posterior.kept_view(arrays_[i].deviations).select(0, collected % rank_).copy_(deviation);
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    if (!in_prediction(noise)) return;
    require(posterior.collected() >= 2,
            "the posterior swag has {} iterates at this point of the run and needs two: they are collected towards its "
            "end, and the same credence train command continues it",
            posterior.collected());
    const std::int64_t rank = std::min(rank_, posterior.collected());
    const Slot& first = posterior.plan().kept.slots[static_cast<std::size_t>(arrays_.front().deviations)];
    const torch::Tensor coordinates =
        factor_coordinates(posterior, noise, first.offset, rank) / std::sqrt(2.0 * static_cast<double>(rank - 1));
    for (std::size_t i = 0; i < slots().size(); ++i) {
      const torch::Tensor scale = (posterior.kept_view(arrays_[i].variance) * 0.5).clamp_min_(0.0).sqrt_();
      const torch::Tensor deviations = posterior.kept_view(arrays_[i].deviations).narrow(0, 0, rank).flatten(1);
      posterior.view(posterior.weights(), slots()[i])
          .copy_(posterior.kept_view(arrays_[i].average))
          .add_(posterior.normals(slots()[i], noise) * scale)
          .add_(torch::mv(deviations.t(), coordinates).view(scale.sizes()));
    }
  }

  void write_mean(const Posterior& posterior, torch::Tensor& weights) const override {
    if (posterior.collected() == 0) return;
    for (std::size_t i = 0; i < slots().size(); ++i) {
      posterior.view(weights, slots()[i]).copy_(posterior.kept_view(arrays_[i].average));
    }
  }

 private:
  struct Arrays {
    int average, variance, deviations;
  };
  std::int64_t rank_;
  std::vector<Arrays> arrays_;  // kept, by place in slots()
};

}  // namespace

std::unique_ptr<Structure> make_diagonal_laplace(PosteriorPlan& plan, std::vector<int> slots) {
  return std::make_unique<DiagonalLaplace>(plan, std::move(slots));
}

std::unique_ptr<Structure> make_last_layer_laplace(PosteriorPlan& plan, std::vector<int> slots) {
  return std::make_unique<LastLayerLaplace>(plan, std::move(slots));
}

std::unique_ptr<Structure> make_swag(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank) {
  return std::make_unique<Swag>(plan, std::move(slots), rank);
}

}  // namespace credence
