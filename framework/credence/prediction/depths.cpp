#include "credence/prediction/depths.h"

namespace credence {

DepthSums::DepthSums(const DepthLikelihood& likelihood, const BlockShare& share)
    : likelihood_(likelihood),
      share_(share),
      probabilities_(static_cast<std::size_t>(share.rows() * likelihood.depths)),
      modes_(static_cast<std::size_t>(share.rows())) {
  for (std::int64_t l = 0; l < likelihood.depths; ++l) {
    at_depth_.emplace_back(*likelihood_.inner, share, PredictionSums::Content::scored);
  }
}

void DepthSums::add(const BlockOutputs& block) {
  for (std::int64_t l = 0; l < likelihood_.depths; ++l) {
    at_depth_[static_cast<std::size_t>(l)].add(
        {block.draw, block.block, block.row, outputs_at_depth(likelihood_, block.outputs, l), block.batch});
  }
  const torch::Tensor q =
      log_depth_probabilities(likelihood_, block.outputs).to(torch::kCPU, torch::kFloat64).exp().contiguous();
  const torch::Tensor mode = q.argmax(1);
  for (std::int64_t i = 0; i < q.numel(); ++i) {
    probabilities_[static_cast<std::size_t>(block.row * likelihood_.depths + i)] += q.data_ptr<double>()[i];
  }
  for (std::int64_t i = 0; i < q.size(0); ++i) {
    modes_[static_cast<std::size_t>(block.row + i)] += static_cast<double>(mode.data_ptr<std::int64_t>()[i] + 1);
  }
}

DepthReport DepthSums::report(int draws, int ece_bins, Communicator& communicator) const {
  DepthReport report;
  const std::int64_t depths = likelihood_.depths;
  const auto q = gather(communicator, probabilities_, share_.first_row() * depths, share_.examples * depths);
  report.mean_mode = ordered_mean(gather(communicator, modes_, share_.first_row(), share_.examples)) / draws;
  for (std::int64_t l = 0; l < depths; ++l) {
    std::vector<double> of_depth;
    for (std::int64_t i = 0; i < share_.examples; ++i) of_depth.push_back(q[static_cast<std::size_t>(i * depths + l)]);
    report.probability.push_back(ordered_mean(of_depth) / draws);
    report.mean_depth += static_cast<double>(l + 1) * report.probability.back();
    const auto scores = at_depth_[static_cast<std::size_t>(l)].scores(draws, ece_bins, false, communicator);
    report.metrics.push_back(scores.metrics);
  }
  return report;
}

HaltingOff::HaltingOff(Network& network)
    : network_(dynamic_cast<AdaptiveDepthImpl*>(&network.module())), halted_(network_ != nullptr && network_->halts()) {
  if (network_ != nullptr) network_->set_halting(false);
}

HaltingOff::~HaltingOff() {
  if (network_ != nullptr) network_->set_halting(halted_);
}

}  // namespace credence
