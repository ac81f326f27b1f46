#include "credence/posteriors/structures.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "credence/base/errors.h"
#include "credence/posteriors/posterior.h"

namespace credence {
namespace {

/// The quantile function of the standard normal distribution.
double normal_quantile(double p) {
  return std::sqrt(2.0) * torch::erfinv(torch::tensor(2.0 * p - 1.0, torch::kFloat64)).item<double>();
}

const Slot& slot_of(const PosteriorPlan& plan, int slot) {
  return plan.layout.slots[static_cast<std::size_t>(slot)];
}

class MultiplicativeNoise final : public Structure {
 public:
  MultiplicativeNoise(const PosteriorPlan& plan, std::vector<int> slots, Family family)
      : Structure(std::move(slots)), family_(family) {
    for (const int slot : this->slots()) noise_of_[slot] = slot_of_shared(plan, slot);
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    for (const int slot : slots()) posterior.view(posterior.weights(), slot).mul_(factor(posterior, slot, noise));
  }

  torch::Tensor pull_back(Posterior& posterior, int slot, const torch::Tensor& gradient, const Give&) override {
    return gradient * factor(posterior, slot, posterior.drawn());
  }

 private:
  static int slot_of_shared(const PosteriorPlan& plan, int slot) {
    const std::string name = shared_name(slot_of(plan, slot));
    const auto& all = plan.layout.slots;
    const auto shared = std::find_if(all.begin(), all.end(), [&](const Slot& s) { return s.name == name; });
    ensure(shared != all.end(), "deviations from a tensor that is not there");
    return static_cast<int>(shared - all.begin());
  }

  /// Mean one; dropped: zero, kept: 1 / (1 - p). Broadcasts over the slot's shape.
  torch::Tensor factor(Posterior& posterior, int slot, const kernels::NoiseStream& noise) const {
    const torch::Tensor eps = posterior.normals(noise_of_.at(slot), beside(noise));
    const double p = family_.number;
    const auto axes = static_cast<std::int64_t>(slot_of(posterior.plan(), slot).shape.size());
    const torch::Tensor deciding = family_.kind == Family::Kind::dropout ? first_of_units(eps, axes)
                                   : eps.dim() < axes                    ? eps.unsqueeze(-1)  // of all groups
                                                                         : eps;
    if (family_.kind == Family::Kind::gaussian_dropout) return 1.0 + deciding * std::sqrt(p / (1.0 - p));
    return deciding.gt(normal_quantile(p)).to(eps.scalar_type()).div_(1.0 - p);
  }

  /// One number for each input unit, [1, units, 1...] of so many axes, of noise in the shape of the weights.
  static torch::Tensor first_of_units(const torch::Tensor& eps, std::int64_t axes) {
    torch::Tensor units = eps.select(0, 0);  // [units, ...]
    while (units.dim() > 1) units = units.select(1, 0);
    std::vector<std::int64_t> shape(static_cast<std::size_t>(axes), 1);
    shape[1] = units.numel();
    return units.reshape(shape);
  }

  Family family_;
  std::map<int, int> noise_of_;  // the slot whose noise it takes: of deviations that which they are added to
};

class SpikeSlab final : public Structure {
 public:
  SpikeSlab(PosteriorPlan& plan, std::vector<int> slots) : Structure(std::move(slots)) {
    logit_of_.resize(static_cast<std::size_t>(plan.network_slots), -1);
    drawn_.resize(logit_of_.size());
    for (const int slot : this->slots()) {
      logit_of_[static_cast<std::size_t>(slot)] =
          plan.add_array(slot, "inclusion_logit", slot_of(plan, slot).shape, {.constant = kInitialLogit});
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    for (const int slot : slots()) {
      torch::Tensor weights = posterior.view(posterior.weights(), slot);
      // u = Phi(eps) is uniform: a relaxed indicator of u > 1 - pi, exact where its sign decides.
      const torch::Tensor eps = posterior.normals(slot, beside(noise));
      const torch::Tensor u = (0.5 * torch::erfc(eps * -std::sqrt(0.5))).clamp(kSmallest, 1.0 - kSmallest);
      const torch::Tensor logit = posterior.view(posterior.mean(), array_of(slot)) + torch::logit(u);
      Drawn& drawn = drawn_[static_cast<std::size_t>(slot)];
      const torch::Tensor soft = torch::sigmoid(logit / kTemperature);
      drawn.kept = logit.gt(0.0).to(weights.scalar_type());
      drawn.slope = weights * soft * (1.0 - soft) / kTemperature;
      weights.mul_(drawn.kept);
    }
  }

  torch::Tensor pull_back(Posterior&, int slot, const torch::Tensor& gradient, const Give& give) override {
    const Drawn& drawn = drawn_[static_cast<std::size_t>(slot)];
    give(array_of(slot), gradient * drawn.slope);
    return gradient * drawn.kept;
  }

  std::vector<std::pair<int, ComplexityNats>> complexity(const Posterior& posterior, PosteriorLeaves& leaves) override {
    std::vector<std::pair<int, ComplexityNats>> terms;
    for (const int slot : slots()) {
      const auto& prior = std::get<SpikeSlabPrior>(posterior.plan().priors[static_cast<std::size_t>(slot)]);
      const torch::Tensor& scale = leaves.scale(slot);
      const torch::Tensor inclusion = torch::sigmoid(leaves.mean(array_of(slot)).to(torch::kFloat64));
      const torch::Tensor kl = spike_slab_kl_nats(prior, leaves.mean(slot), scale, inclusion);
      const torch::Tensor entropy = spike_slab_entropy_nats(scale, inclusion);
      // The kernels count the entropy of the slab as if every weight were in it: taken back here.
      const torch::Tensor slab =
          (torch::log(scale.to(torch::kFloat64)) + 0.5 * std::log(2.0 * M_PI * std::exp(1.0))).sum();
      terms.push_back({slot, {kl + entropy, entropy - slab}});
    }
    return terms;
  }

  void write_mean(const Posterior& posterior, torch::Tensor& weights) const override {
    for (const int slot : slots()) {
      posterior.view(weights, slot).mul_(torch::sigmoid(posterior.view(posterior.mean(), array_of(slot))));
    }
  }

 private:
  static constexpr double kInitialLogit = 2.0;
  static constexpr double kTemperature = 0.5;
  static constexpr double kSmallest = 1e-7;
  struct Drawn {
    torch::Tensor kept, slope;  // indicator; d weight / d logit
  };
  int array_of(int slot) const { return logit_of_[static_cast<std::size_t>(slot)]; }

  std::vector<int> logit_of_;
  std::vector<Drawn> drawn_;
};

/// The standard deviation of the normal prior of a slot; infinite where the prior is no normal one.
double prior_scale_of(const Posterior& posterior, int slot) {
  return posterior.segments()[static_cast<std::size_t>(slot)].prior_scale;
}

/// E_q[-log p] of what a further array adds to the variance of each weight: nothing where draws are charged instead.
ComplexityNats added_variance(const Posterior& posterior, int slot, const torch::Tensor& array,
                              double multiplier = 1.0) {
  const double scale = prior_scale_of(posterior, slot) / multiplier;
  if (std::isinf(scale)) return {};
  return {array.to(torch::kFloat64).square().sum() / (2.0 * scale * scale), {}};
}

/// Standard deviations, float64, of independent parts together.
torch::Tensor joined_scale(const torch::Tensor& scale, const torch::Tensor& further_variance) {
  return (scale.to(torch::kFloat64).square() + further_variance.view(scale.sizes())).sqrt();
}

class LowRank final : public Structure {
 public:
  LowRank(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank) : Structure(std::move(slots)), rank_(rank) {
    factor_of_.resize(static_cast<std::size_t>(plan.network_slots), -1);
    for (const int slot : this->slots()) {
      std::vector<std::int64_t> shape = slot_of(plan, slot).shape;
      shape.push_back(rank);
      factor_of_[static_cast<std::size_t>(slot)] = plan.add_array(
          slot, "factor", std::move(shape), {.deviation = kInitialDeviation / std::sqrt(static_cast<double>(rank))});
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    const int first = factor_of_[static_cast<std::size_t>(slots().front())];
    coordinates_ = factor_coordinates(posterior, noise, slot_of(posterior.plan(), first).offset, rank_);
    for (const int slot : slots()) {
      posterior.view(posterior.weights(), slot).add_(torch::matmul(factor(posterior, slot), coordinates_));
    }
  }

  torch::Tensor pull_back(Posterior&, int slot, const torch::Tensor& gradient, const Give& give) override {
    give(factor_of_[static_cast<std::size_t>(slot)], gradient.unsqueeze(-1) * coordinates_);
    return gradient;
  }

  /// H[q] exceeds that of independent Gaussians by log det(I + U' D^-1 U) / 2, D the diagonal of variances.
  std::vector<std::pair<int, ComplexityNats>> complexity(const Posterior& posterior, PosteriorLeaves& leaves) override {
    std::vector<std::pair<int, ComplexityNats>> terms;
    torch::Tensor inner = torch::eye(rank_, torch::TensorOptions(torch::kFloat64).device(posterior.mean().device()));
    for (const int slot : slots()) {
      const torch::Tensor& array = leaves.mean(factor_of_[static_cast<std::size_t>(slot)]);
      const torch::Tensor scaled =
          (array.to(torch::kFloat64) / leaves.scale(slot).to(torch::kFloat64).unsqueeze(-1)).reshape({-1, rank_});
      inner = inner + torch::mm(scaled.t(), scaled);
      terms.push_back({slot, added_variance(posterior, slot, array)});
    }
    terms.push_back({-1, {{}, 0.5 * torch::logdet(inner)}});
    return terms;
  }

  torch::Tensor marginal_scale(PosteriorLeaves& leaves, int slot) const override {
    const torch::Tensor& array = leaves.mean(factor_of_[static_cast<std::size_t>(slot)]);
    return joined_scale(leaves.scale(slot), array.to(torch::kFloat64).square().sum(-1));
  }

 private:
  static constexpr double kInitialDeviation = 1e-3;
  torch::Tensor factor(const Posterior& posterior, int slot) const {
    return posterior.view(posterior.mean(), factor_of_[static_cast<std::size_t>(slot)]);
  }

  std::int64_t rank_;
  std::vector<int> factor_of_;
  torch::Tensor coordinates_;  // z of the newest draw
};

class FullRank final : public Structure {
 public:
  FullRank(PosteriorPlan& plan, std::vector<int> slots) : Structure(std::move(slots)) {
    for (const int slot : this->slots()) weights_ += slot_of(plan, slot).count;
    multiplier_ = 1.0 / std::sqrt(static_cast<double>(weights_));
    lower_of_.resize(static_cast<std::size_t>(plan.network_slots), -1);
    first_of_.resize(lower_of_.size(), 0);
    std::int64_t first = 0;
    for (const int slot : this->slots()) {
      const auto index = static_cast<std::size_t>(slot);
      first_of_[index] = first;
      first += slot_of(plan, slot).count;
      lower_of_[index] = plan.add_array(slot, "lower", {slot_of(plan, slot).count, weights_}, {});
    }
  }

  void draw(Posterior& posterior, const kernels::NoiseStream& noise) override {
    std::vector<torch::Tensor> parts;
    for (const int slot : slots()) parts.push_back(posterior.normals(slot, noise).flatten().clone());
    eps_ = torch::cat(parts);
    for (const int slot : slots()) {
      torch::Tensor weights = posterior.view(posterior.weights(), slot);
      weights.add_(torch::mv(posterior.view(posterior.mean(), lower(slot)), eps_).view(weights.sizes()), multiplier_);
    }
  }

  torch::Tensor pull_back(Posterior&, int slot, const torch::Tensor& gradient, const Give& give) override {
    const std::int64_t first = first_of_[static_cast<std::size_t>(slot)];
    give(lower(slot), torch::outer(gradient.flatten(), eps_ * multiplier_).tril_(first - 1));
    return gradient;
  }

  /// The determinant is that of the diagonal, which the kernels know.
  std::vector<std::pair<int, ComplexityNats>> complexity(const Posterior& posterior, PosteriorLeaves& leaves) override {
    std::vector<std::pair<int, ComplexityNats>> terms;
    for (const int slot : slots()) {
      terms.push_back({slot, added_variance(posterior, slot, leaves.mean(lower(slot)), multiplier_)});
    }
    return terms;
  }

  torch::Tensor marginal_scale(PosteriorLeaves& leaves, int slot) const override {
    const torch::Tensor variance = (leaves.mean(lower(slot)).to(torch::kFloat64) * multiplier_).square().sum(1);
    return joined_scale(leaves.scale(slot), variance);
  }

 private:
  int lower(int slot) const { return lower_of_[static_cast<std::size_t>(slot)]; }

  std::int64_t weights_ = 0;
  double multiplier_ = 1.0;  // of `lower`
  std::vector<int> lower_of_;
  std::vector<std::int64_t> first_of_;  // place of the slot's first weight among all
  torch::Tensor eps_;                   // of the newest draw, over all weights
};

/// Values, not draws; only q's divergence from its prior is new.
class Categorical final : public Structure {
 public:
  explicit Categorical(std::vector<int> slots) : Structure(std::move(slots)) {}

  bool is_random() const override { return false; }
  void draw(Posterior&, const kernels::NoiseStream&) override {}
  torch::Tensor pull_back(Posterior&, int, const torch::Tensor& gradient, const Give&) override { return gradient; }

  std::vector<std::pair<int, ComplexityNats>> complexity(const Posterior& posterior, PosteriorLeaves& leaves) override {
    std::vector<std::pair<int, ComplexityNats>> terms;
    for (const int slot : slots()) {
      const torch::Tensor log_q = torch::log_softmax(leaves.mean(slot).to(torch::kFloat64), 0);
      const torch::Tensor log_p =
          torch::tensor(slot_of(posterior.plan(), slot).categorical_log_prior, torch::kFloat64).to(log_q.device());
      const torch::Tensor q = log_q.exp();
      terms.push_back({slot, {-(q * log_p).sum(), -(q * log_q).sum()}});
    }
    return terms;
  }
};

}  // namespace

// A draw in evaluation has step 0, one in training its own: the step tells them apart.
kernels::NoiseStream beside(kernels::NoiseStream noise, kernels::Purpose purpose) {
  if (noise.purpose == kernels::Purpose::prediction) noise.step = 0xffffffffU;
  noise.purpose = purpose;
  return noise;
}

torch::Tensor factor_coordinates(const Posterior& posterior, const kernels::NoiseStream& noise, std::int64_t first,
                                 std::int64_t rank) {
  const kernels::NoiseStream factors = beside(noise, kernels::Purpose::factors);
  std::vector<double> z;
  for (std::int64_t i = first; i < first + rank; ++i) {
    z.push_back(static_cast<double>(kernels::standard_normal(factors, i)));
  }
  return torch::tensor(z, torch::kFloat64).to(posterior.mean().options());
}

std::string shared_name(const Slot& slot) {
  const std::string part = ".deviation";
  const auto at = slot.name.rfind(part + ".");
  return slot.is_deviation && at != std::string::npos ? slot.name.substr(0, at) + slot.name.substr(at + part.size())
                                                      : slot.name;
}

std::unique_ptr<Structure> make_multiplicative_noise(PosteriorPlan& plan, std::vector<int> slots) {
  const Family family = plan.families[static_cast<std::size_t>(slots.front())];
  return std::make_unique<MultiplicativeNoise>(plan, std::move(slots), family);
}

std::unique_ptr<Structure> make_spike_slab(PosteriorPlan& plan, std::vector<int> slots) {
  return std::make_unique<SpikeSlab>(plan, std::move(slots));
}

std::unique_ptr<Structure> make_low_rank(PosteriorPlan& plan, std::vector<int> slots, std::int64_t rank) {
  return std::make_unique<LowRank>(plan, std::move(slots), rank);
}

std::unique_ptr<Structure> make_full_rank(PosteriorPlan& plan, std::vector<int> slots) {
  return std::make_unique<FullRank>(plan, std::move(slots));
}

std::unique_ptr<Structure> make_categorical(std::vector<int> slots) {
  return std::make_unique<Categorical>(std::move(slots));
}

}  // namespace credence
