#include "credence/estimators/reparameterized.h"

#include <bit>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/base/text.h"

namespace credence {
namespace {

constexpr std::size_t kNll = 0;
constexpr std::size_t kCorrect = 1;
constexpr std::size_t kNotFinite = 2;
constexpr std::size_t kShardScalars = 3;

Buffer buffer_of(const torch::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.numel(), tensor.scalar_type() == torch::kFloat64 ? DType::float64 : DType::float32,
          tensor.is_cuda() ? Device::cuda : Device::cpu};
}

/// The sum over [first, last) in the fixed binary tree, left in `values[first]`.
template <class T, class Add>
void sum_tree(std::vector<T>& values, std::size_t first, std::size_t last, const Add& add) {
  if (last - first < 2) return;
  const std::size_t middle = first + std::bit_ceil(last - first) / 2;
  sum_tree(values, first, middle, add);
  sum_tree(values, middle, last, add);
  add(values[first], values[middle]);
}

bool needs_two_sums(const ReparameterizedEstimator::Options& options, const Posterior& posterior) {
  return posterior.has_gaussian() && (options.noise != NoiseSharing::shared || options.samples > 1);
}

int shards_of_rank(const ReparameterizedEstimator::Options& options, const Communicator& communicator) {
  require(options.shards >= 1 && options.shards % communicator.size() == 0,
          "--shards {} cannot be dealt to {} ranks; use a multiple of the number of ranks", options.shards,
          communicator.size());
  return options.shards / communicator.size();
}

}  // namespace

NoiseSharing parse_noise(const std::string& text) {
  const std::vector<std::string> known = {"shared", "shard", "antithetic"};
  if (text == known[0]) return NoiseSharing::shared;
  if (text == known[1]) return NoiseSharing::shard;
  if (text == known[2]) return NoiseSharing::antithetic;
  refuse_unknown("noise", text, known);
}

ReparameterizedEstimator::ReparameterizedEstimator(const Parts& parts, const Options& options)
    : parts_(parts),
      options_(options),
      local_shards_(shards_of_rank(options, parts.communicator)),
      sums_(parts.posterior, {.local_shards = local_shards_,
                              .samples = options.samples,
                              .two_sums = needs_two_sums(options, parts.posterior),
                              .keep_in_place = parts.communicator.size() == 1}),
      charged_slots_(monte_carlo_slots(parts.posterior.plan())) {
  require(options.samples >= 1, "--weight-samples must be at least 1, not {}", options.samples);
  require(options.noise != NoiseSharing::antithetic || options.shards % 2 == 0,
          "--noise antithetic pairs the shards, and --shards {} is odd; use an even number", options.shards);
  const Layout& layout = parts_.posterior.layout();
  const int slots = static_cast<int>(layout.slots.size());
  if (parts_.communicator.size() > 1 && !options_.stage_through_host) {
    reducer_ =
        std::make_unique<BucketReducer>(parts_.communicator,
                                        plan_buckets(layout.offsets(), layout.elements,
                                                     torch::elementSize(parts_.network.dtype()), options_.bucket_bytes),
                                        slots);
  }
  require(parts.posterior.plan().members == 1 || parts_.network.buffer_arena().numel() == 0,
          "an ensemble shares the network's buffers, and {} of this network is one of batch normalisation, whose "
          "statistics differ from member to member; train the members as runs of their own seeds",
          parts_.network.float_buffers().empty() ? "none" : parts_.network.float_buffers().front().first);
  scalars_of_shard_.resize(static_cast<std::size_t>(local_shards_));
  buffers_of_shard_.resize(static_cast<std::size_t>(local_shards_));
  parts_.network.bind(parts_.posterior.network_weights());
  parts_.network.set_gradient_sink([this](int slot, const torch::Tensor& gradient) {
    parts_.posterior.pull_back(member_ * parts_.posterior.plan().member_slots() + slot, gradient,
                               [this](int array, const torch::Tensor& of_array) { take(array, of_array); });
  });
}

ReparameterizedEstimator::~ReparameterizedEstimator() {
  parts_.network.set_gradient_sink(nullptr);
}

void ReparameterizedEstimator::take(int slot, const torch::Tensor& gradient) {
  if (sums_.take(slot, gradient) && reducer_) reducer_->ready(slot);
  parts_.communicator.progress();
}

double ReparameterizedEstimator::gradient_multiplier() const {
  return 1.0 / (static_cast<double>(options_.shards) * options_.samples);
}

kernels::NoiseStream ReparameterizedEstimator::stream(std::int64_t step, int shard, int sample) const {
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

StepTotals ReparameterizedEstimator::run(std::int64_t step, const std::function<Examples()>& next_examples,
                                         std::span<const double> flags, double cross_entropy_weight) {
  cross_entropy_weight_ = cross_entropy_weight;
  parts_.network.module().train();
  buffers_at_start_ = parts_.network.buffer_arena().clone();
  integers_at_start_.clear();
  for (const auto& [name, buffer] : parts_.network.integer_buffers()) integers_at_start_.push_back(buffer.clone());
  sums_.begin_step();
  if (reducer_) {
    std::vector<Buffer> arrays = {buffer_of(sums_.sum())};
    if (sums_.scaled_sum().defined()) arrays.push_back(buffer_of(sums_.scaled_sum()));
    reducer_->arm(arrays);
  }
  examples_ = 0;
  shards_not_finite_.clear();
  for (int shard = 0; shard < local_shards_; ++shard) {
    const Examples examples = next_examples();
    examples_ += examples.inputs.size(0);
    scalars_of_shard_[static_cast<std::size_t>(shard)].assign(kShardScalars + charged_slots_.size(), 0.0);
    for (int sample = 0; sample < options_.samples; ++sample) run_pass(step, shard, sample, examples);
  }
  std::vector<double> scalars = local_scalars(flags);
  reduce(scalars);
  const std::size_t first_flag = kShardScalars + charged_slots_.size();
  finish_buffers(std::span<const double>(scalars).subspan(first_flag + flags.size()));

  StepTotals totals;
  const double members = parts_.posterior.plan().members;
  totals.mean_nll = scalars[kNll] * gradient_multiplier() / members;
  totals.accuracy = scalars[kCorrect] * gradient_multiplier() / members /
                    (static_cast<double>(examples_) / static_cast<double>(local_shards_));
  totals.finite = scalars[kNotFinite] == 0.0;
  for (std::size_t i = kShardScalars; i < first_flag; ++i)
    totals.prior_nats.push_back(scalars[i] * gradient_multiplier());
  const auto flag = scalars.begin() + static_cast<std::ptrdiff_t>(first_flag);
  totals.flags.assign(flag, flag + static_cast<std::ptrdiff_t>(flags.size()));
  return totals;
}

void ReparameterizedEstimator::run_pass(std::int64_t step, int local_shard, int sample, const Examples& examples) {
  const int shard = first_shard() + local_shard;
  const kernels::NoiseStream noise = stream(step, shard, sample);
  parts_.posterior.draw(noise);
  sums_.begin_pass(noise);
  seed_module(step, shard, sample);
  if (local_shard + sample > 0) restore_buffers();
  const PosteriorPlan& plan = parts_.posterior.plan();
  for (int member = 0; member < plan.members; ++member) {
    run_member(member, shard, examples, scalars_of_shard_[static_cast<std::size_t>(local_shard)]);
  }
  // The loss knows nothing of the arrays of priors: their gradients come with the closed forms.
  for (const PriorTerm& term : plan.terms) {
    for (const int array : term.arrays)
      take(array, torch::zeros_like(parts_.posterior.view(parts_.posterior.mean(), array)));
  }
  const int missing = sums_.end_pass();
  require(missing < 0, "parameter {} of the network takes no part in its output: it received no gradient",
          missing < 0 ? std::string() : plan.layout.slots[static_cast<std::size_t>(missing)].name);
  collect_buffers(local_shard, sample);
}

/// One forward and backward pass under the newest draw of a member.
void ReparameterizedEstimator::run_member(int member, int shard, const Examples& examples,
                                          std::vector<double>& scalars) {
  if (parts_.posterior.plan().members > 1) {
    member_ = member;
    parts_.network.bind(parts_.posterior.network_weights(member));
  }
  const torch::Tensor outputs = parts_.network.forward(examples.inputs);
  const torch::Tensor loss = mean_negative_log_likelihood(parts_.likelihood, outputs, examples.targets);
  charge_priors(member, loss, scalars).backward();
  const double nll = loss.item<double>();
  scalars[kNll] += nll;
  scalars[kCorrect] += static_cast<double>(count_correct(parts_.likelihood, outputs, examples.targets));
  if (!std::isfinite(nll)) {
    scalars[kNotFinite] += 1.0;
    if (shards_not_finite_.empty() || shards_not_finite_.back() != shard) shards_not_finite_.push_back(shard);
  }
}

/// The loss with -log p(w) / N of this draw for the priors that have no closed form.
torch::Tensor ReparameterizedEstimator::charge_priors(int member, const torch::Tensor& loss,
                                                      std::vector<double>& scalars) const {
  if (charged_slots_.empty()) return loss;
  torch::Tensor total = loss;
  std::size_t place = kShardScalars;
  for (const torch::Tensor& nats : monte_carlo_terms(parts_.posterior, parts_.network.parameters(), member)) {
    const std::size_t at = place++;
    if (!nats.defined()) continue;  // of another member
    scalars[at] += nats.item<double>();
    total = total + (nats * cross_entropy_weight_).to(loss.scalar_type());
  }
  return total;
}

void ReparameterizedEstimator::seed_module(std::int64_t step, int shard, int sample) const {
  const kernels::NoiseStream stream{.seed = options_.seed,
                                    .purpose = kernels::Purpose::module,
                                    .step = static_cast<std::uint32_t>(step),
                                    .shard = static_cast<std::uint32_t>(shard),
                                    .sample = static_cast<std::uint32_t>(sample)};
  torch::manual_seed((std::uint64_t{kernels::random_word(stream, 0)} << 32) | kernels::random_word(stream, 1));
}

void ReparameterizedEstimator::restore_buffers() {
  const torch::NoGradGuard no_grad;
  parts_.network.buffer_arena().copy_(buffers_at_start_);
  for (std::size_t i = 0; i < integers_at_start_.size(); ++i) {
    torch::Tensor buffer = parts_.network.integer_buffers()[i].second;
    buffer.copy_(integers_at_start_[i]);
  }
}

void ReparameterizedEstimator::collect_buffers(int local_shard, int sample) {
  const torch::Tensor& arena = parts_.network.buffer_arena();
  if (arena.numel() > 0) {
    torch::Tensor& sum = buffers_of_shard_[static_cast<std::size_t>(local_shard)];
    if (sample == 0) {
      sum = arena.clone();
    } else {
      sum.add_(arena);
    }
  }
  if (first_shard() + local_shard == 0 && sample == 0) {
    integers_of_shard_zero_.clear();
    for (const auto& [name, buffer] : parts_.network.integer_buffers()) {
      integers_of_shard_zero_.push_back(buffer.to(torch::kCPU, torch::kFloat64).flatten());
    }
  }
}

/// {sums over this rank's shards, flags, integer buffers of shard 0 (zeros on other ranks)}.
std::vector<double> ReparameterizedEstimator::local_scalars(std::span<const double> flags) {
  sum_tree(scalars_of_shard_, 0, scalars_of_shard_.size(), [](std::vector<double>& sum, const std::vector<double>& b) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  });
  std::vector<double> scalars = scalars_of_shard_.front();
  scalars.insert(scalars.end(), flags.begin(), flags.end());
  for (std::size_t i = 0; i < integers_at_start_.size(); ++i) {
    const auto count = static_cast<std::size_t>(integers_at_start_[i].numel());
    if (first_shard() == 0) {
      const double* values = integers_of_shard_zero_[i].data_ptr<double>();
      scalars.insert(scalars.end(), values, values + count);
    } else {
      scalars.insert(scalars.end(), count, 0.0);
    }
  }
  return scalars;
}

void ReparameterizedEstimator::reduce(std::vector<double>& scalars) {
  if (buffers_of_shard_.front().defined()) {
    sum_tree(buffers_of_shard_, 0, buffers_of_shard_.size(),
             [](torch::Tensor& sum, const torch::Tensor& other) { sum.add_(other); });
  }
  if (parts_.communicator.size() == 1) return;
  const Stopwatch watch;
  Pending pending = parts_.communicator.all_reduce(
      {scalars.data(), static_cast<std::int64_t>(scalars.size()), DType::float64, Device::cpu}, Reduction::sum);
  if (reducer_) {
    reducer_->finish();
  } else {
    reduce_array(sums_.sum());
    if (sums_.scaled_sum().defined()) reduce_array(sums_.scaled_sum());
  }
  pending.wait();
  if (buffers_of_shard_.front().defined()) reduce_array(buffers_of_shard_.front());
  waited_seconds_ += watch.seconds();
}

void ReparameterizedEstimator::reduce_array(const torch::Tensor& array) {
  if (!options_.stage_through_host) {
    parts_.communicator.all_reduce(buffer_of(array), Reduction::sum).wait();
    return;
  }
  torch::Tensor host = array.cpu();
  parts_.communicator.all_reduce(buffer_of(host), Reduction::sum).wait();
  torch::Tensor target = array;
  target.copy_(host);
}

void ReparameterizedEstimator::finish_buffers(std::span<const double> integers) {
  const torch::NoGradGuard no_grad;
  if (buffers_of_shard_.front().defined()) {
    parts_.network.buffer_arena().copy_(buffers_of_shard_.front().mul_(gradient_multiplier()));
  }
  std::size_t offset = 0;
  for (const auto& [name, buffer] : parts_.network.integer_buffers()) {
    const auto count = static_cast<std::size_t>(buffer.numel());
    const std::vector<double> values(integers.begin() + static_cast<std::ptrdiff_t>(offset),
                                     integers.begin() + static_cast<std::ptrdiff_t>(offset + count));
    torch::Tensor target = buffer;
    target.copy_(torch::tensor(values, torch::kFloat64).view(buffer.sizes()));
    offset += count;
  }
}

}  // namespace credence
