// What one step of each estimator costs and how much its gradient varies, at one posterior and one minibatch:
//   mpirun -np 2 build/experiments/estimators/gradient_variance NETWORK TRAINING_STEPS MEASURED_STEPS
// Prints one JSON object a line.
#include <credence/base/stopwatch.h>
#include <credence/communication/factory.h>
#include <credence/data/loader.h>
#include <credence/data/open.h>
#include <credence/estimators/activation_noise.h>
#include <credence/estimators/reparameterized.h>
#include <credence/estimators/score.h>
#include <credence/networks/zoo.h>
#include <credence/optimizers/optimizer.h>
#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace credence;

constexpr std::int64_t kBatch = 64;
constexpr int kShards = 8;
constexpr std::uint64_t kSeed = 1;

struct Method {
  std::string estimator;
  NoiseSharing noise;
  std::string noise_name;
  int samples;
};

/// The first has the least variance but for antithetic pairs: the others' averages are held against its own.
std::vector<Method> methods() {
  std::vector<Method> list;
  for (const int samples : {4, 2, 1}) {
    list.push_back({"reparam", NoiseSharing::shard, "shard", samples});
    list.push_back({"reparam", NoiseSharing::shared, "shared", samples});
    list.push_back({"reparam", NoiseSharing::antithetic, "antithetic", samples});
    list.push_back({"flipout", NoiseSharing::shared, "shared", samples});
    list.push_back({"local-reparam", NoiseSharing::shared, "shared", samples});
  }
  for (const int samples : {32, 8}) list.push_back({"score", NoiseSharing::shared, "shared", samples});
  return list;
}

std::unique_ptr<Estimator> make(const std::string& name, const Estimator::Parts& parts,
                                const Estimator::Options& options) {
  if (name == "reparam") return std::make_unique<ReparameterizedEstimator>(parts, options);
  if (name == "score") return std::make_unique<ScoreEstimator>(parts, options);
  return std::make_unique<ActivationNoiseEstimator>(
      parts, options, name == "flipout" ? ActivationNoise::Kind::flipout : ActivationNoise::Kind::local);
}

/// Means and variances of the elements of vectors that come one after the other.
struct Moments {
  torch::Tensor first, sum, squares;
  int count = 0;

  void add(const torch::Tensor& values) {
    if (count++ == 0) {
      first = values.clone();
      sum = torch::zeros_like(values);
      squares = torch::zeros_like(values);
    }
    const torch::Tensor difference = values - first;
    sum += difference;
    squares += difference.square();
  }
  torch::Tensor mean() const { return first + sum / count; }
  /// Sum of the elements' variances.
  double variance() const { return ((squares - sum.square() / count) / (count - 1)).sum().item<double>(); }
  /// Squared length of the expectation, without bias.
  double signal() const { return mean().square().sum().item<double>() - variance() / count; }
};

/// (dL/dmean, dL/dscale) per example, float64.
std::pair<torch::Tensor, torch::Tensor> gradient_of(Posterior& posterior, const Estimator& estimator) {
  GradientSum gradient = estimator.gradient();
  torch::Tensor scaled = gradient.scaled;
  if (!scaled.defined()) {
    scaled = torch::zeros_like(posterior.mean());
    const torch::Tensor scratch = torch::empty_like(scaled);
    for (std::size_t i = 0; i < gradient.slots.size(); ++i)
      posterior.kernels().accumulate(posterior.segments()[i], gradient.slots[i], gradient.noise, false, scratch,
                                     scaled);
  }
  std::vector<torch::Tensor> means, scales;
  for (std::size_t i = 0; i < gradient.slots.size(); ++i) {
    const auto& segment = posterior.segments()[i];
    means.push_back(gradient.slots[i].flatten());
    scales.push_back(scaled.narrow(0, segment.offset, segment.count));
  }
  const double multiplier = estimator.gradient_multiplier();
  return {torch::cat(means).to(torch::kFloat64) * multiplier, torch::cat(scales).to(torch::kFloat64) * multiplier};
}

struct Bench {
  MpiSession& session;
  std::unique_ptr<Communicator> communicator =
      session.size() == 1 ? make_self_communicator() : make_mpi_communicator(session, {});
  std::unique_ptr<DataSource> source = open_data("fashion-mnist", Split::train);
  Likelihood likelihood = CategoricalLikelihood{.classes = 10};
  SamplingPlan plan{kSeed, source->size(), kBatch, kShards};

  std::function<Examples()> reader(Loader& loader) const {
    return
        [&loader, this] { return to_tensors(loader.next(), source->spec(), likelihood, torch::kFloat32, torch::kCPU); };
  }
};

void train(const Bench& bench, const Estimator::Parts& parts, std::int64_t steps) {
  ReparameterizedEstimator estimator(parts, {.seed = kSeed, .shards = kShards, .noise = NoiseSharing::shard});
  Optimizer optimizer(parts.posterior, {});
  Loader loader(*bench.source, bench.plan,
                {.first_shard = estimator.first_shard(), .shard_count = estimator.local_shards()});
  const auto next = bench.reader(loader);
  for (std::int64_t step = 0; step < steps; ++step) {
    estimator.run(step, next, {});
    optimizer.step(estimator.gradient(), {.number = step,
                                          .gradient_multiplier = estimator.gradient_multiplier(),
                                          .weights = {},
                                          .dataset_size = bench.source->size(),
                                          .next_draw = std::nullopt});
  }
}

void measure(const Bench& bench, const Estimator::Parts& parts, std::int64_t trained, std::int64_t steps) {
  torch::Tensor reference;
  double variance_of_reference = 0.0;
  std::uint64_t seed = 100;
  for (const Method& method : methods()) {
    const auto estimator = make(method.estimator, parts,
                                {.seed = seed++, .shards = kShards, .samples = method.samples, .noise = method.noise});
    Loader loader(
        *bench.source, bench.plan,
        {.first_step = trained, .first_shard = estimator->first_shard(), .shard_count = estimator->local_shards()});
    std::vector<Examples> shards;
    const auto next = bench.reader(loader);
    for (int shard = 0; shard < estimator->local_shards(); ++shard) shards.push_back(next());
    Moments of_mean, of_scale;
    double seconds = 0.0;
    std::int64_t bytes = 0;
    for (std::int64_t step = 0; step < steps; ++step) {
      std::size_t shard = 0;
      bench.communicator->barrier();
      const std::int64_t bytes_before = bench.communicator->traffic().bytes_sent;
      const Stopwatch watch;
      estimator->run(step, [&] { return shards[shard++]; }, {});
      seconds += watch.seconds();
      bytes += bench.communicator->traffic().bytes_sent - bytes_before;
      const auto [mean, scale] = gradient_of(parts.posterior, *estimator);
      of_mean.add(mean);
      of_scale.add(scale);
    }
    if (!reference.defined()) {
      reference = of_mean.mean();
      variance_of_reference = of_mean.variance();
    }
    // How far the two averages lie apart, against what their variances let expect.
    const double distance = (of_mean.mean() - reference).square().sum().item<double>();
    const double expected = (of_mean.variance() + variance_of_reference) / static_cast<double>(steps);
    if (bench.session.rank() != 0) continue;
    fmt::print(
        R"({{"estimator": "{}", "noise": "{}", "samples": {}, "milliseconds": {:.4f}, "bytes": {}, "mean_variance": )"
        R"({:.6g}, "mean_signal": {:.6g}, "scale_variance": {:.6g}, "scale_signal": {:.6g}, "distance": {:.4f}}})"
        "\n",
        method.estimator, method.noise_name, method.samples, 1e3 * seconds / static_cast<double>(steps), bytes / steps,
        of_mean.variance(), of_mean.signal(), of_scale.variance(), of_scale.signal(), distance / expected);
    std::fflush(stdout);
  }
}

void run(MpiSession& session, const std::string& spec, std::int64_t trained, std::int64_t steps) {
  const Bench bench{session};
  Network network(build_module(spec, bench.source->spec(), 10, kSeed));
  Posterior posterior(plan_posterior(network.layout(), parse_families({}), parse_priors({})), network.values(), 0.02,
                      1);
  const Estimator::Parts parts{network, posterior, bench.likelihood, *bench.communicator};
  train(bench, parts, trained);
  measure(bench, parts, trained, steps);
}

}  // namespace

int main(int argc, char** argv) {
  credence::MpiSession session(argc, argv);
  at::set_num_threads(1);
  try {
    require(argc == 4, "usage: gradient_variance NETWORK TRAINING_STEPS MEASURED_STEPS");
    run(session, argv[1], std::atol(argv[2]), std::atol(argv[3]));
    credence::leave(session, 0);
  } catch (const credence::Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.rank(), error.what());
    credence::leave(session, static_cast<int>(error.code()), error.what());
  }
}
