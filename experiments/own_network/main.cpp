// A network of one's own under a mean-field posterior, on any number of ranks:
//   mpirun -np 2 build/experiments/own_network/own_network runs/own [STEPS]
#include <credence/checkpoint/run_directory.h>
#include <credence/communication/factory.h>
#include <credence/data/open.h>
#include <credence/estimators/reparameterized.h>
#include <credence/training/signals.h>
#include <credence/training/train.h>

#include <cstdio>
#include <cstdlib>

namespace {

// An ordinary LibTorch module: nothing in it knows of posteriors, shards or ranks.
struct TinyConvolutionImpl : torch::nn::Module {
  TinyConvolutionImpl() {
    convolution = register_module("convolution", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 8, 5).stride(2)));
    head = register_module("head", torch::nn::Linear(8 * 12 * 12, 10));
  }
  torch::Tensor forward(torch::Tensor images) {  // [B, 1, 28, 28] -> [B, 10]
    return head(torch::relu(convolution(images)).flatten(1));
  }
  torch::nn::Conv2d convolution{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(TinyConvolution);

int run(credence::MpiSession& session, const std::string& directory, std::int64_t steps) {
  using namespace credence;
  const auto communicator = make_mpi_communicator(session, {.order = ReductionOrder::tree, .timeout_seconds = 60});
  const auto source = open_data("fashion-mnist", Split::train);
  const Likelihood likelihood = CategoricalLikelihood{.classes = 10};

  constexpr std::uint64_t kSeed = 1;
  torch::manual_seed(kSeed);
  Network network{torch::nn::AnyModule(TinyConvolution())};
  Posterior posterior(plan_posterior(network.layout(), parse_families({"mean-field"}), parse_priors({"normal:1"})),
                      network.values(), /*initial_scale=*/0.0067, /*threads=*/1);
  Optimizer optimizer(posterior, {.learning_rate = 5e-3, .scale_learning_rate = 5e-3});

  const SamplingPlan plan(kSeed, source->size(), /*batch=*/256, /*shards=*/4);
  ReparameterizedEstimator estimator({network, posterior, likelihood, *communicator},
                                     {.seed = kSeed, .shards = plan.shards(), .noise = NoiseSharing::shard});
  RunState state{.network = network, .posterior = posterior, .optimizer = optimizer};
  const RunIdentity identity{.config = "network = TinyConvolution\n",
                             .seed = kSeed,
                             .shards = plan.shards(),
                             .dataset_size = source->size(),
                             .dataset_digest = source->digest(),
                             .world_size = session.size(),
                             .bound = describe_bound(posterior.plan()),
                             .examples = source->spec()};
  std::optional<RunDirectoryLock> lock;
  collectively(*communicator, [&] {  // rank 0 owns the directory and reads what is there; all go on from it
    if (session.rank() != 0) return;
    std::filesystem::create_directories(directory);
    lock.emplace(directory);
    const auto found = find_newest_checkpoint(directory);
    for (const auto& [file, why] : found.unusable) std::fprintf(stderr, "skipping %s\n", why.c_str());
    if (found.newest) {
      restore(*found.newest, identity, state);
    } else if (!found.unusable.empty()) {
      throw DataError("none of the checkpoints in " + directory + " can be used");
    }
  });
  broadcast_state(state, *communicator);

  Loader loader(
      *source, plan,
      {.first_step = state.step, .first_shard = estimator.first_shard(), .shard_count = estimator.local_shards()});
  const Outcome outcome = train({*source, likelihood, plan, loader, estimator, *communicator},
                                {.directory = directory,
                                 .total_steps = steps,
                                 .checkpoint_every = 100,
                                 .objective = {.dataset_size = source->size()},
                                 .schedule = CosineSchedule{}},
                                identity, state, [&](const StepReport& report) {
                                  if (session.rank() != 0 || report.record.step % 50 != 0) return;
                                  std::printf("step %ld, ELBO %.3f nats per example\n", report.record.step,
                                              report.record.elbo / static_cast<double>(source->size()));
                                });
  return static_cast<int>(outcome == Outcome::finished ? ExitCode::done : ExitCode::stopped);
}

}  // namespace

int main(int argc, char** argv) {
  credence::MpiSession session(argc, argv);
  credence::install_signal_handlers();
  at::set_num_threads(1);
  try {
    const std::string directory = argc > 1 ? argv[1] : "runs/own";
    credence::leave(session, run(session, directory, argc > 2 ? std::atol(argv[2]) : 500));
  } catch (const credence::Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.rank(), error.what());
    credence::leave(session, static_cast<int>(error.code()), error.what());
  }
}
