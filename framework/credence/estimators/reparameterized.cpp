#include "credence/estimators/reparameterized.h"

namespace credence {
namespace {

bool needs_two_sums(const Estimator::Options& options, const Posterior& posterior) {
  return posterior.has_gaussian() && (options.noise != NoiseSharing::shared || options.samples > 1);
}

}  // namespace

ReparameterizedEstimator::ReparameterizedEstimator(const Parts& parts, const Options& options)
    : BackwardEstimator(parts, options, {.two = needs_two_sums(options, parts.posterior)}) {
  parts.network.set_gradient_sink([this](int slot, const torch::Tensor& gradient) {
    Posterior& posterior = this->parts().posterior;
    posterior.pull_back(member_ * posterior.plan().member_slots() + slot, gradient,
                        [this](int array, const torch::Tensor& of_array) { take(array, of_array); });
  });
}

ReparameterizedEstimator::~ReparameterizedEstimator() {
  parts().network.set_gradient_sink(nullptr);
}

void ReparameterizedEstimator::run_pass(const Pass& pass) {
  parts().posterior.draw(pass.noise);
  sums().begin_pass(pass.noise);
  const auto [first, last] = parts().posterior.worked_on();
  for (int member = first; member < last; ++member) run_member(pass, member);
  end_pass();
}

/// One forward and backward pass under the newest draw of a member.
void ReparameterizedEstimator::run_member(const Pass& pass, int member) {
  if (parts().posterior.plan().members > 1) {
    member_ = member;
    parts().network.bind(parts().posterior.network_weights(member));
  }
  seed_module(pass, member);
  const torch::Tensor outputs = parts().network.forward(pass.examples.inputs);
  const torch::Tensor nll = mean_negative_log_likelihood(parts().likelihood, outputs, pass.examples.targets);
  charge_priors(pass, nll, parts().network.parameters(), member).backward();
  note(pass, {nll}, outputs, member);
}

}  // namespace credence
