#include "credence/estimators/estimator.h"

#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/base/text.h"
#include "credence/estimators/shard_tree.h"
#include "credence/networks/sync_norm.h"

namespace credence {
namespace {

constexpr std::size_t kNll = 0;
constexpr std::size_t kMinimised = 1;
constexpr std::size_t kCorrect = 2;
constexpr std::size_t kNotFinite = 3;
constexpr std::size_t kMemberScalars = 4;

int shards_of_rank(const Estimator::Options& options, const Estimator::Parts& parts) {
  const Communicator& communicator = parts.communicator;
  require(options.shards >= 1 && options.shards % communicator.size() == 0,
          "--shards {} cannot be dealt to {} ranks; use a multiple of the number of ranks", options.shards,
          communicator.size());
  return parts.posterior.works_on_all() ? options.shards / communicator.size() : options.shards;
}

}  // namespace

NoiseSharing parse_noise(const std::string& text) {
  const std::vector<std::string> known = {"shared", "shard", "antithetic"};
  if (text == known[0]) return NoiseSharing::shared;
  if (text == known[1]) return NoiseSharing::shard;
  if (text == known[2]) return NoiseSharing::antithetic;
  refuse_unknown("noise", text, known);
}

Estimator::Estimator(const Parts& parts, const Options& options, UpdateShare share)
    : parts_(parts),
      options_(options),
      share_(std::move(share)),
      local_shards_(shards_of_rank(options, parts)),
      buffers_(parts.network, local_shards_),
      scalars_of_shard_(static_cast<std::size_t>(local_shards_)),
      charged_slots_(monte_carlo_slots(parts.posterior.plan())) {
  require(options.samples >= 1, "--weight-samples must be at least 1, not {}", options.samples);
  require(options.noise != NoiseSharing::antithetic || options.shards % 2 == 0,
          "--noise antithetic pairs the shards, and --shards {} is odd; use an even number", options.shards);
  require(parts.posterior.plan().members == 1 || parts_.network.buffer_arena().numel() == 0,
          "an ensemble shares the network's buffers, and {} of this network is one of batch normalisation, whose "
          "statistics differ from member to member; train the members as runs of their own seeds",
          parts_.network.float_buffers().empty() ? "none" : parts_.network.float_buffers().front().first);
  synchronize_norms();
  parts_.network.bind(parts_.posterior.network_weights());
}

Estimator::~Estimator() {
  set_shard_sums(parts_.network.module(), {});
}

/// Layers that normalise over all shards of a step sum their moments over the ranks, each of which runs one.
void Estimator::synchronize_norms() {
  if (!set_shard_sums(parts_.network.module(), {})) return;
  require(local_shards_ == 1,
          "--norm sync normalises over all shards of a step at once, so every rank runs one: --shards {} needs {} "
          "ranks, and there {}; or take --norm batch",
          options_.shards, options_.shards,
          parts_.communicator.size() == 1 ? "is one" : fmt::format("are {}", parts_.communicator.size()));
  const auto sum = [this](const torch::Tensor& array) {
    const Stopwatch watch;
    reduce_array(array);
    waited_seconds_ += watch.seconds();
  };
  set_shard_sums(parts_.network.module(), {options_.shards, sum});
}

double Estimator::gradient_multiplier() const {
  return 1.0 / (static_cast<double>(options_.shards) * options_.samples);
}

kernels::NoiseStream Estimator::stream(std::int64_t step, int shard, int sample) const {
  kernels::NoiseStream noise{.seed = options_.seed,
                             .purpose = kernels::Purpose::weights,
                             .step = static_cast<std::uint32_t>(step),
                             .sample = static_cast<std::uint32_t>(sample)};
  if (options_.noise == NoiseSharing::shard) noise.shard = static_cast<std::uint32_t>(shard);
  if (options_.noise == NoiseSharing::antithetic) {
    noise.shard = static_cast<std::uint32_t>(shard / 2);
    noise.negate = shard % 2 == 1;
  }
  return noise;
}

StepTotals Estimator::run(std::int64_t step, const std::function<Examples()>& next_examples,
                          std::span<const double> flags, double cross_entropy_weight) {
  cross_entropy_weight_ = cross_entropy_weight;
  parts_.network.module().train();
  buffers_.begin_step();
  begin_step();
  examples_ = 0;
  shards_not_finite_.clear();
  for (int shard = 0; shard < local_shards_; ++shard) run_shard(step, shard, next_examples());
  std::vector<double> scalars = local_scalars(flags);
  reduce(scalars);
  const std::size_t first_charge = kMemberScalars * static_cast<std::size_t>(parts_.posterior.plan().members);
  const std::size_t first_flag = first_charge + charged_slots_.size();
  buffers_.finish(gradient_multiplier(), std::span<const double>(scalars).subspan(first_flag + flags.size()));

  StepTotals totals;
  const double members = parts_.posterior.plan().members;
  const auto over_members = [&](std::size_t kind) {
    double sum = 0.0;
    for (std::size_t i = kind; i < first_charge; i += kMemberScalars) sum += scalars[i];
    return sum;
  };
  totals.mean_nll = over_members(kNll) * gradient_multiplier() / members;
  totals.minimised_nll = over_members(kMinimised) * gradient_multiplier() / members;
  totals.accuracy = over_members(kCorrect) * gradient_multiplier() / members /
                    (static_cast<double>(examples_) / static_cast<double>(local_shards_));
  totals.finite = over_members(kNotFinite) == 0.0;
  for (std::size_t i = first_charge; i < first_flag; ++i)
    totals.prior_nats.push_back(scalars[i] * gradient_multiplier());
  const auto flag = scalars.begin() + static_cast<std::ptrdiff_t>(first_flag);
  totals.flags.assign(flag, flag + static_cast<std::ptrdiff_t>(flags.size()));
  return totals;
}

void Estimator::run_shard(std::int64_t step, int local_shard, const Examples& examples) {
  const int shard = first_shard() + local_shard;
  examples_ += examples.inputs.size(0);
  const std::size_t members = static_cast<std::size_t>(parts_.posterior.plan().members);
  scalars_of_shard_[static_cast<std::size_t>(local_shard)].assign(kMemberScalars * members + charged_slots_.size(),
                                                                  0.0);
  for (int sample = 0; sample < options_.samples; ++sample) {
    const Pass pass{step, local_shard, shard, sample, stream(step, shard, sample), examples};
    if (local_shard + sample > 0) buffers_.restore();
    run_pass(pass);
    const bool first_of_all = shard == 0 && sample == 0 && (local_shard > 0 || parts_.communicator.rank() == 0);
    buffers_.collect(local_shard, sample == 0, first_of_all);
  }
}

void Estimator::note(const Pass& pass, const Loss& loss, const torch::Tensor& outputs, int member) {
  const auto scalars = std::span(scalars_of_shard_[static_cast<std::size_t>(pass.local_shard)])
                           .subspan(kMemberScalars * static_cast<std::size_t>(member), kMemberScalars);
  const double nll = loss.reported.item<double>();
  const double minimised = loss.minimised.defined() ? loss.minimised.item<double>() : nll;
  scalars[kNll] += nll;
  scalars[kMinimised] += minimised;
  scalars[kCorrect] += static_cast<double>(count_correct(parts_.likelihood, outputs, pass.examples.targets));
  if (std::isfinite(nll) && std::isfinite(minimised)) return;
  scalars[kNotFinite] += 1.0;
  if (shards_not_finite_.empty() || shards_not_finite_.back() != pass.shard) shards_not_finite_.push_back(pass.shard);
}

torch::Tensor Estimator::charge_priors(const Pass& pass, const torch::Tensor& nll,
                                       const std::vector<torch::Tensor>& weights, int member) {
  if (charged_slots_.empty()) return nll;
  torch::Tensor total = nll;
  std::vector<double>& scalars = scalars_of_shard_[static_cast<std::size_t>(pass.local_shard)];
  std::size_t place = kMemberScalars * static_cast<std::size_t>(parts_.posterior.plan().members);
  for (const torch::Tensor& nats : monte_carlo_terms(parts_.posterior, weights, member)) {
    const std::size_t at = place++;
    if (!nats.defined()) continue;  // of another member
    scalars[at] += nats.item<double>();
    total = total + (nats * cross_entropy_weight_).to(nll.scalar_type());
  }
  return total;
}

void Estimator::seed_module(const Pass& pass, int member) const {
  const kernels::NoiseStream noise{.seed = options_.seed,
                                   .purpose = kernels::Purpose::module,
                                   .step = static_cast<std::uint32_t>(pass.step),
                                   .shard = static_cast<std::uint32_t>(pass.shard),
                                   .sample = static_cast<std::uint32_t>(pass.sample)};
  const std::int64_t word = 2 * member;
  torch::manual_seed((std::uint64_t{kernels::random_word(noise, word)} << 32) | kernels::random_word(noise, word + 1));
}

/// {sums over this rank's shards, flags, integer buffers of shard 0 (zeros on other ranks)}.
std::vector<double> Estimator::local_scalars(std::span<const double> flags) {
  sum_tree(scalars_of_shard_, 0, scalars_of_shard_.size(), [](std::vector<double>& sum, const std::vector<double>& b) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  });
  std::vector<double> scalars = scalars_of_shard_.front();
  scalars.insert(scalars.end(), flags.begin(), flags.end());
  const std::vector<double> integers = buffers_.integers();
  scalars.insert(scalars.end(), integers.begin(), integers.end());
  return scalars;
}

void Estimator::reduce(std::vector<double>& scalars) {
  const torch::Tensor buffers = buffers_.sum_over_shards();
  if (parts_.communicator.size() == 1) {
    finish_step();
    return;
  }
  const Stopwatch watch;
  Pending pending = parts_.communicator.all_reduce(
      {scalars.data(), static_cast<std::int64_t>(scalars.size()), DType::float64, Device::cpu}, Reduction::sum);
  finish_step();
  pending.wait();
  if (buffers.defined()) reduce_array(buffers);
  waited_seconds_ += watch.seconds();
}

Buffer Estimator::buffer_of(const torch::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.numel(), tensor.scalar_type() == torch::kFloat64 ? DType::float64 : DType::float32,
          tensor.is_cuda() ? Device::cuda : Device::cpu};
}

void Estimator::reduce_array(const torch::Tensor& array) {
  if (!options_.stage_through_host) {
    parts_.communicator.all_reduce(buffer_of(array), Reduction::sum).wait();
    return;
  }
  torch::Tensor host = array.cpu();
  parts_.communicator.all_reduce(buffer_of(host), Reduction::sum).wait();
  torch::Tensor target = array;
  target.copy_(host);
}

}  // namespace credence
