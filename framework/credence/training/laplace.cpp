#include "credence/training/laplace.h"

#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/estimators/curvature.h"
#include "credence/prediction/pass.h"

namespace credence {
namespace {

constexpr std::int64_t kBlock = 256;  // examples that pass together; part of the result's last bits

/// The tensors of one member that the approximation is over, as one vector of weights.
struct Weights {
  std::vector<int> slots;  // of the posterior's layout
  bool whole = false;      // the whole matrix, else its diagonal
  torch::Tensor mean;      // float64 on the host
  torch::Tensor prior_precision;
};

Weights weights_of(const Posterior& posterior, int member, double prior_weight) {
  const PosteriorPlan& plan = posterior.plan();
  Weights weights;
  std::vector<torch::Tensor> means, precisions;
  for (int slot = member * plan.member_slots(); slot < (member + 1) * plan.member_slots(); ++slot) {
    const auto index = static_cast<std::size_t>(slot);
    if (plan.families[index].kind != Family::Kind::laplace) continue;
    weights.slots.push_back(slot);
    weights.whole = plan.families[index].number == Family::kLastLayer;
    means.push_back(posterior.view(posterior.mean(), slot).flatten().to(torch::kCPU, torch::kFloat64));
    const double scale = plan.segments[index].prior_scale;
    precisions.push_back(torch::full_like(means.back(), prior_weight / (scale * scale)));
  }
  ensure(!weights.slots.empty(), "nothing to fit a Laplace approximation to");
  weights.mean = torch::cat(means);
  weights.prior_precision = torch::cat(precisions);
  return weights;
}

/// Curvature and log likelihood of the training set, [elements of the curvature + 1].
class DatasetCurvature {
 public:
  DatasetCurvature(const LaplaceParts& parts, const Weights& weights, int part_count)
      : parts_(parts),
        part_count_(part_count),
        whole_(weights.whole),
        curvature_(parts.network, parts.likelihood, network_slots(parts, weights)) {}

  /// Of parts [first, last), in one fixed binary tree over the parts.
  torch::Tensor sum(int first, int last) {
    if (last - first == 1) return sum_of_part(first);
    const int middle = first + static_cast<int>(std::bit_ceil(static_cast<unsigned>(last - first)) / 2);
    const torch::Tensor left = sum(first, middle);
    return left.add_(sum(middle, last));
  }

  const Curvature& curvature() const { return curvature_; }

 private:
  static std::vector<int> network_slots(const LaplaceParts& parts, const Weights& weights) {
    std::vector<int> slots;
    for (const int slot : weights.slots) slots.push_back(slot % parts.posterior.plan().member_slots());
    return slots;
  }

  torch::Tensor sum_of_part(int part) {
    const std::int64_t count = curvature_.weights();
    const std::int64_t elements = whole_ ? count * count : count;
    const torch::Tensor sum =
        torch::zeros({elements + 1}, torch::TensorOptions(torch::kFloat64).device(parts_.network.device()));
    const torch::Tensor matrix = sum.narrow(0, 0, elements);
    const std::int64_t blocks = (parts_.source.size() + kBlock - 1) / kBlock;
    for (std::int64_t block = blocks * part / part_count_; block < blocks * (part + 1) / part_count_; ++block) {
      const Examples examples = read(block);
      const torch::Tensor outputs = whole_ ? curvature_.add_matrix(examples.inputs, matrix.view({count, count}))
                                           : curvature_.add_diagonal(examples.inputs, matrix);
      sum[elements] += log_likelihoods(parts_.likelihood, outputs, examples.targets).sum();
      parts_.communicator.progress();
    }
    return sum;
  }

  Examples read(std::int64_t block) {
    std::vector<std::int64_t> indices(
        static_cast<std::size_t>(std::min(kBlock, parts_.source.size() - block * kBlock)));
    std::iota(indices.begin(), indices.end(), block * kBlock);
    parts_.source.read(indices, batch_);
    return to_tensors(batch_, parts_.source.spec(), parts_.likelihood, parts_.network.dtype(), parts_.network.device());
  }

  const LaplaceParts& parts_;
  int part_count_;
  bool whole_;
  Curvature curvature_;
  Batch batch_;
};

/// Over all ranks, on the host.
torch::Tensor sum_over_dataset(const LaplaceParts& parts, const LaplaceOptions& options, const Weights& weights) {
  Communicator& communicator = parts.communicator;
  ensure(options.parts % communicator.size() == 0, "parts of the training set cannot be dealt to the ranks");
  const int mine = options.parts / communicator.size();
  torch::Tensor sum;
  collectively(communicator, [&] {  // files are read here, and may fail on one rank only
    DatasetCurvature dataset(parts, weights, options.parts);
    sum = dataset.sum(communicator.rank() * mine, (communicator.rank() + 1) * mine);
    if (const auto& slow = dataset.curvature().slow_tensors(); !slow.empty()) {
      log_info("the curvature of {} took a pass for every example: no Linear or Conv2d layer of one use has them",
               fmt::join(slow, ", "));
    }
  });
  if (options.stage_through_host) sum = sum.cpu();
  if (communicator.size() > 1) {
    communicator
        .all_reduce({sum.data_ptr(), sum.numel(), DType::float64, sum.is_cuda() ? Device::cuda : Device::cpu},
                    Reduction::sum)
        .wait();
  }
  sum = sum.cpu();
  if (!sum.isfinite().all().item<bool>()) {
    throw NumericalError(
        "the curvature of the likelihood at the end of training is not finite; a smaller --lr may help");
  }
  return sum;
}

void keep(const LaplaceParts& parts, const Weights& weights, const torch::Tensor& rows) {
  const PosteriorPlan& plan = parts.posterior.plan();
  std::int64_t first = 0;
  for (const int slot : weights.slots) {
    const Slot& place = plan.layout.slots[static_cast<std::size_t>(slot)];
    for (std::size_t kept = 0; kept < plan.kept.slots.size(); ++kept) {
      if (plan.kept.slots[kept].name != place.name) continue;
      torch::Tensor array = parts.posterior.kept_view(static_cast<int>(kept));
      array.copy_(rows.narrow(0, first, place.count).reshape(array.sizes()));
    }
    first += place.count;
  }
}

struct Fit {
  LaplaceEvidence evidence;
  double factor = 1.0;
};

Fit fit_member(const LaplaceParts& parts, const LaplaceOptions& options, int member) {
  const Weights weights = weights_of(parts.posterior, member, options.prior_weight);
  parts.network.bind(parts.posterior.member_part(parts.posterior.mean(), member));
  const torch::Tensor sum = sum_over_dataset(parts, options, weights);
  const torch::NoGradGuard no_grad;
  const std::int64_t count = weights.mean.numel();
  Fit fit;
  fit.evidence.log_likelihood = sum[-1].item<double>();
  fit.evidence.squares = (weights.prior_precision * weights.mean.square()).sum().item<double>();
  const torch::Tensor curvature = sum.narrow(0, 0, sum.numel() - 1);
  if (!weights.whole) {
    fit.evidence.curvatures = curvature / weights.prior_precision;
    if (options.fit_precision) fit.factor = fit.evidence.best_factor();
    keep(parts, weights, curvature + fit.factor * weights.prior_precision);
    return fit;
  }
  const torch::Tensor prior_root = weights.prior_precision.sqrt();
  const auto [values, vectors] =
      torch::linalg_eigh(curvature.view({count, count}) / torch::outer(prior_root, prior_root));
  fit.evidence.curvatures = values.clamp_min(0.0);  // rounding only
  if (options.fit_precision) fit.factor = fit.evidence.best_factor();
  keep(parts, weights, vectors / prior_root.unsqueeze(1) * (fit.evidence.curvatures + fit.factor).rsqrt());
  return fit;
}

}  // namespace

double LaplaceEvidence::log_evidence(double factor) const {
  // The normal prior's and the posterior's normalisers cancel but for the ratio of their determinants.
  return log_likelihood - 0.5 * torch::log1p(curvatures / factor).sum().item<double>() - 0.5 * factor * squares;
}

double LaplaceEvidence::best_factor() const {
  // The derivative with respect to log factor, (sum of c / (c + factor) - factor * squares) / 2, falls throughout.
  double low = std::log(1e-12);
  double high = std::log(1e12);
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    const double factor = std::exp(middle);
    const double effective = (curvatures / (curvatures + factor)).sum().item<double>();
    (effective > factor * squares ? low : high) = middle;
  }
  return std::exp(0.5 * (low + high));
}

std::map<std::string, double> fit_laplace(const LaplaceParts& parts, const LaplaceOptions& options) {
  const Stopwatch watch;
  const EvaluationMode mode(parts.network, parts.posterior);
  const int members = parts.posterior.plan().members;
  std::map<std::string, double> numbers;
  for (int member = 0; member < members; ++member) {
    const Fit fit = fit_member(parts, options, member);
    numbers["log_evidence"] += fit.evidence.log_evidence(fit.factor) / members;
    numbers["log_evidence_at_prior"] += fit.evidence.log_evidence(1.0) / members;
    numbers["prior_precision_factor"] += fit.factor / members;
  }
  parts.posterior.set_collected(1);
  log_info("laplace    log evidence {:.1f} nats, prior precision times {:.4g}, {:.1f} s", numbers["log_evidence"],
           numbers["prior_precision_factor"], watch.seconds());
  return numbers;
}

}  // namespace credence
