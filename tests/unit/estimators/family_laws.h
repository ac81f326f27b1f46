// What families of posteriors say of themselves: covariances from the documented meaning of their arrays.
#pragma once

#include <map>
#include <tuple>

#include "unit/estimators/cases.h"

namespace credence::test {

/// The network's slots of all members, one after the other: the order of weights in vectors here.
inline torch::Tensor gathered(const Posterior& posterior, const torch::Tensor& arena) {
  std::vector<torch::Tensor> parts;
  for (int slot = 0; slot < posterior.plan().network_slots; ++slot) {
    parts.push_back(posterior.view(arena, slot).flatten());
  }
  return torch::cat(parts).clone();
}

/// The values of a further or kept array of a tensor.
inline torch::Tensor array_of(const Posterior& posterior, int owner, const std::string& name) {
  const PosteriorPlan& plan = posterior.plan();
  for (std::size_t i = 0; i < plan.array_owners.size(); ++i) {
    const std::size_t slot = static_cast<std::size_t>(plan.network_slots) + i;
    if (plan.array_owners[i] == owner && plan.layout.slots[slot].array == name)
      return posterior.view(posterior.mean(), static_cast<int>(slot));
  }
  for (std::size_t i = 0; i < plan.kept_owners.size(); ++i) {
    if (plan.kept_owners[i] == owner && plan.kept.slots[i].array == name)
      return posterior.kept_view(static_cast<int>(i));
  }
  throw std::out_of_range(name);
}

inline torch::Tensor inclusion_of(const Posterior& posterior, int slot) {
  return torch::sigmoid(array_of(posterior, slot, "inclusion_logit")).flatten();
}

/// The covariance that q claims, over gathered weights: a diagonal and roots, whose products with themselves are added.
class ClaimedCovariance {
 public:
  explicit ClaimedCovariance(const Posterior& posterior)
      : posterior_(posterior), diagonal_(torch::zeros_like(gathered(posterior, posterior.mean()))) {
    std::int64_t first = 0;
    for (int slot = 0; slot < posterior.plan().network_slots; ++slot) {
      const std::int64_t count = posterior.layout().slots[static_cast<std::size_t>(slot)].count;
      add(slot, first, count);
      first += count;
    }
  }

  torch::Tensor matrix() const {
    torch::Tensor sum = torch::diag(diagonal_);
    for (const auto& [key, root] : roots_) sum = sum + root.matmul(root.t());
    return sum;
  }

 private:
  void add(int slot, std::int64_t first, std::int64_t count) {
    const Family& family = posterior_.plan().families[static_cast<std::size_t>(slot)];
    const torch::Tensor mean = posterior_.view(posterior_.mean(), slot);
    const torch::Tensor scale = posterior_.view(posterior_.scales(), slot).flatten();
    torch::Tensor variance = diagonal_.narrow(0, first, count);
    const double odds = family.number / (1.0 - family.number);
    const auto root = [&](const torch::Tensor& rows) { add_root(slot, first, rows); };
    switch (family.kind) {
      case Family::Kind::point:
      case Family::Kind::categorical:
        break;
      case Family::Kind::mean_field:
      case Family::Kind::sparse:
        variance.copy_(scale.square());
        break;
      case Family::Kind::spike_slab: {
        const torch::Tensor pi = inclusion_of(posterior_, slot), m = mean.flatten();
        variance.copy_(pi * (scale.square() + m.square()) - (pi * m).square());
        break;
      }
      case Family::Kind::dropout:  // one number for each input unit: [outputs, units] has `units` columns of its own
        own_roots_of(slot, first, mean * std::sqrt(odds));
        break;
      case Family::Kind::dropconnect:
      case Family::Kind::gaussian_dropout:
        variance.copy_(mean.flatten().square() * odds);
        break;
      case Family::Kind::low_rank:
        variance.copy_(scale.square());
        root(array_of(posterior_, slot, "factor").reshape({count, -1}));
        break;
      case Family::Kind::full_rank: {
        const torch::Tensor lower = array_of(posterior_, slot, "lower");
        torch::Tensor rows = lower / std::sqrt(static_cast<double>(lower.size(1)));
        // Strictly lower: the diagonal's column is that of the weight among all weights of the root.
        const std::int64_t place = rows_of_root(slot);
        for (std::int64_t i = 0; i < count; ++i) rows[i][place + i] = scale[i];
        root(rows);
        break;
      }
      case Family::Kind::laplace:
        if (family.number == Family::kLastLayer) {
          root(array_of(posterior_, slot, "covariance_root"));
        } else {
          variance.copy_(array_of(posterior_, slot, "precision").flatten().reciprocal());
        }
        break;
      case Family::Kind::swag: {
        variance.copy_(array_of(posterior_, slot, "variance").flatten() / 2.0);
        const torch::Tensor deviations = array_of(posterior_, slot, "deviations").flatten(1);
        root(deviations.t() / std::sqrt(2.0 * static_cast<double>(deviations.size(0) - 1)));
        break;
      }
    }
  }

  using Key = std::tuple<int, Family::Kind, double, int>;
  Key key_of(int slot, int own) const {
    const Family& family = posterior_.plan().families[static_cast<std::size_t>(slot)];
    return {posterior_.plan().member_of(slot), family.kind, family.number, own};
  }
  void place(const Key& key, std::int64_t first, const torch::Tensor& rows) {
    torch::Tensor& root = roots_[key];
    if (!root.defined()) root = torch::zeros({diagonal_.numel(), rows.size(1)}, torch::kFloat64);
    root.narrow(0, first, rows.size(0)).copy_(rows);
    rows_[key] += rows.size(0);
  }
  /// Slots of a member with the same family and number share their random numbers.
  void add_root(int slot, std::int64_t first, const torch::Tensor& rows) { place(key_of(slot, -1), first, rows); }
  std::int64_t rows_of_root(int slot) { return rows_[key_of(slot, -1)]; }
  /// Columns for this slot alone: column u holds the weights that read unit u.
  void own_roots_of(int slot, std::int64_t first, const torch::Tensor& values) {
    const std::int64_t units = values.size(1);
    torch::Tensor rows = torch::zeros({values.numel(), units}, torch::kFloat64);
    for (std::int64_t i = 0; i < values.numel(); ++i) rows[i][i % units] = values.flatten()[i];
    place(key_of(slot, slot), first, rows);
  }

  const Posterior& posterior_;
  torch::Tensor diagonal_;
  std::map<Key, torch::Tensor> roots_;
  std::map<Key, std::int64_t> rows_;
};

}  // namespace credence::test
