#include "credence/prediction/mixtures.h"

#include "credence/prediction/metrics.h"

namespace credence {

Mixtures::Mixtures(const Likelihood& likelihood, std::int64_t targets)
    : model_(likelihood),
      low_(model_.level(0.5 - 0.5 * kIntervalProbability)),
      high_(model_.level(0.5 + 0.5 * kIntervalProbability)),
      targets_(targets) {}

void Mixtures::add(std::int64_t first, int draw, const torch::Tensor& outputs) {
  const auto tensors = model_.of(outputs);
  const torch::Tensor location = tensors.location.cpu().contiguous();
  const torch::Tensor scale = tensors.scale.cpu().contiguous();
  const auto index = static_cast<std::size_t>(draw);
  if (of_draw_.size() <= index)
    of_draw_.resize(index + 1, std::vector<Observation>(static_cast<std::size_t>(targets_)));
  Observation* into = of_draw_[index].data() + first;
  for (std::int64_t i = 0; i < location.numel(); ++i) {
    into[i] = {location.data_ptr<double>()[i], scale.data_ptr<double>()[i]};
  }
}

Mixtures::Row Mixtures::row(std::int64_t target, int draws) const {
  std::vector<Observation> mixture;
  mixture.reserve(static_cast<std::size_t>(draws));
  for (int draw = 0; draw < draws; ++draw) {
    mixture.push_back(of_draw_[static_cast<std::size_t>(draw)][static_cast<std::size_t>(target)]);
  }
  Row row;
  for (const Observation& observation : mixture) {
    row.mean += observation.location / draws;
    row.aleatoric_variance += model_.variance(observation) / draws;
  }
  for (const Observation& observation : mixture) {
    const double deviation = observation.location - row.mean;
    row.epistemic_variance += deviation * deviation / draws;
  }
  row.lower = model_.quantile(low_, mixture);
  row.upper = model_.quantile(high_, mixture);
  return row;
}

}  // namespace credence
