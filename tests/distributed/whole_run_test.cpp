// The way of a training run from end to end without LibTorch, so that sanitizers see all of it: examples from the
// loader, draws and updates by the kernels, gradients reduced bucket by bucket, checkpoints from the background,
// resumption. A Bayesian logistic regression on two moons, whose gradient is written out. What it must give is what one
// process does.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "credence/checkpoint/background_writer.h"
#include "credence/communication/bucket_reducer.h"
#include "credence/communication/factory.h"
#include "credence/communication/tree_sum.h"
#include "credence/data/loader.h"
#include "credence/data/open.h"
#include "credence/kernels/kernel_set.h"
#include "support/mpi_test.h"

namespace credence::testing {
namespace {

constexpr int kShards = 4;
constexpr std::int64_t kBatch = 64;
constexpr std::int64_t kSteps = 40;
constexpr std::int64_t kStopped = 15;
constexpr std::uint64_t kSeed = 7;
constexpr std::int64_t kWeights = 2;                       // one for each coordinate of a point, and a bias
constexpr std::int64_t kArena = 2 * kernels::kNoiseGroup;  // the bias begins at the second group
constexpr std::int64_t kBias = kernels::kNoiseGroup;
constexpr double kInitialScale = 0.0067;

using Arena = std::vector<float>;

struct State {
  std::int64_t step = 0;
  Arena mean = Arena(kArena, 0.0F);
  Arena raw_scale = Arena(kArena, static_cast<float>(kernels::inverse_softplus(kInitialScale)));
  Arena mean_first = Arena(kArena, 0.0F);
  Arena mean_second = Arena(kArena, 0.0F);
  Arena scale_first = Arena(kArena, 0.0F);
  Arena scale_second = Arena(kArena, 0.0F);
  std::vector<double> loss;  // of each step, nats per example

  std::vector<std::pair<const char*, Arena*>> arenas() {
    return {{"posterior/weights/mean", &mean},      {"posterior/weights/raw_scale", &raw_scale},
            {"optimizer/m/weights", &mean_first},   {"optimizer/v/weights", &mean_second},
            {"optimizer/sm/weights", &scale_first}, {"optimizer/sv/weights", &scale_second}};
  }
  bool operator==(const State&) const = default;
};

/// Mean negative log likelihood of a shard; adds its gradient to `gradient`.
double backward(const Batch& batch, const Arena& weights, Arena& gradient) {
  double loss = 0.0;
  for (std::int64_t i = 0; i < batch.size; ++i) {
    const float* x = batch.inputs.data() + i * kWeights;
    const double y = static_cast<double>(batch.labels[static_cast<std::size_t>(i)]);
    const double logit =
        static_cast<double>(weights[kBias]) + static_cast<double>(weights[0] * x[0] + weights[1] * x[1]);
    loss += std::log1p(std::exp(-std::abs(logit))) + std::max(logit, 0.0) - y * logit;
    const double error = (1.0 / (1.0 + std::exp(-logit)) - y) / static_cast<double>(batch.size);
    gradient[0] += static_cast<float>(error) * x[0];
    gradient[1] += static_cast<float>(error) * x[1];
    gradient[kBias] += static_cast<float>(error);
  }
  return loss / static_cast<double>(batch.size);
}

class Training {
 public:
  explicit Training(Communicator& world)
      : world_(world),
        source_(open_data("moons", Split::train)),
        plan_(kSeed, source_->size(), kBatch, kShards),
        kernels_(kernels::simd_kernels<float>(1)),
        segments_{{.offset = 0, .count = kWeights, .prior_scale = 1.0},
                  {.offset = kBias, .count = 1, .prior_scale = 1.0}},
        reducer_(world, plan_buckets(std::vector<std::int64_t>{0, kBias}, kArena, sizeof(float), {64}), 2) {}

  /// Trains to `last`; with a writer, saves every 5 steps.
  void train(State& state, std::int64_t last, BackgroundWriter* writer = nullptr) {
    const int mine = kShards / world_.size();
    Loader loader(*source_, plan_,
                  {.first_step = state.step, .first_shard = mine * world_.rank(), .shard_count = mine, .seed = kSeed});
    while (state.step < last) {
      step(state, loader, mine);
      if (writer != nullptr && (state.step % 5 == 0 || state.step == last)) save(state, *writer);
    }
  }

  void save(State& state, BackgroundWriter& writer) const {
    CheckpointContents contents;
    contents.config = "network = logistic\n";
    contents.attributes = {{"step", state.step},
                           {"epoch", plan_.epochs(state.step)},
                           {"seed", std::int64_t{kSeed}},
                           {"shards", std::int64_t{kShards}},
                           {"dataset_size", source_->size()},
                           {"world_size", std::int64_t{world_.size()}}};
    for (const auto& [name, arena] : state.arenas())
      contents.arrays.push_back({name, DType::float32, {kArena}, arena->data()});
    contents.arrays.push_back({"history/objective", DType::float64, {state.step}, state.loss.data()});
    writer.submit(state.step, contents);
  }

  /// Rank 0 reads, all get it.
  State resume(const std::filesystem::path& directory) {
    State state;
    collectively(world_, [&] {
      if (world_.rank() != 0) return;
      const auto checkpoint = find_newest_checkpoint(directory).newest;
      require(checkpoint != nullptr, "no checkpoint");
      state.step = checkpoint->integer("step");
      for (const auto& [name, arena] : state.arenas())
        checkpoint->read({name, DType::float32, {kArena}, arena->data()});
      state.loss = checkpoint->read_doubles("history/objective");
    });
    world_.broadcast({&state.step, 1, DType::int64}, 0).wait();
    for (const auto& [name, arena] : state.arenas()) world_.broadcast({arena->data(), kArena}, 0).wait();
    state.loss.resize(static_cast<std::size_t>(state.step));
    world_.broadcast({state.loss.data(), state.step, DType::float64}, 0).wait();
    return state;
  }

 private:
  void step(State& state, Loader& loader, int mine) {
    const kernels::NoiseStream noise{.seed = kSeed, .step = static_cast<std::uint32_t>(state.step)};
    Arena weights(kArena, 0.0F);
    kernels_->draw(segments_, state.mean.data(), state.raw_scale.data(), noise, weights.data());
    std::vector<Arena> gradients(static_cast<std::size_t>(mine), Arena(kArena, 0.0F));
    std::vector<double> losses;
    for (Arena& gradient : gradients) losses.push_back(backward(loader.next(), weights, gradient));
    Arena& gradient = gradients.front();
    add_up(gradients);
    double loss = mine == 1   ? losses[0]
                  : mine == 2 ? losses[0] + losses[1]
                              : (losses[0] + losses[1]) + (losses[2] + losses[3]);
    reducer_.arm(std::vector<Buffer>{{gradient.data(), kArena}});
    for (const int slot : {1, 0}) reducer_.ready(slot);
    reducer_.finish();
    world_.all_reduce({&loss, 1, DType::float64}, Reduction::sum).wait();
    update(state, gradient, noise);
    state.loss.push_back(loss / kShards);
    ++state.step;
  }

  /// Into the first, in the order in which shards are added across ranks.
  static void add_up(std::vector<Arena>& gradients) {
    std::vector<void*> contributions;
    for (Arena& gradient : gradients) contributions.push_back(gradient.data());
    reduce_in_tree_order(contributions, gradients.front().data(), kArena, DType::float32, Reduction::sum);
  }

  void update(State& state, const Arena& gradient, const kernels::NoiseStream& noise) {
    const auto examples = static_cast<double>(source_->size());
    const kernels::UpdateRule rule{.learning_rate = 0.05,
                                   .scale_learning_rate = 0.05,
                                   .step = state.step + 1,
                                   .gradient_multiplier = 1.0 / kShards,
                                   .cross_entropy_weight = 1.0 / examples,
                                   .entropy_weight = 1.0 / examples};
    const float* const of_segments[] = {gradient.data(), gradient.data() + kBias};
    static_cast<void>(kernels_->update(segments_, rule,
                                       {.mean = state.mean.data(),
                                        .raw_scale = state.raw_scale.data(),
                                        .mean_first = state.mean_first.data(),
                                        .mean_second = state.mean_second.data(),
                                        .scale_first = state.scale_first.data(),
                                        .scale_second = state.scale_second.data(),
                                        .gradients = of_segments,
                                        .noise = &noise}));
  }

  Communicator& world_;
  std::unique_ptr<DataSource> source_;
  SamplingPlan plan_;
  std::unique_ptr<kernels::KernelSet<float>> kernels_;
  std::vector<kernels::Segment> segments_;
  BucketReducer reducer_;
};

State alone() {
  const auto self = make_self_communicator();
  State state;
  Training(*self).train(state, kSteps);
  return state;
}

class WholeRun : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name;
    if (world_->rank() == 0) {
      std::string pattern = (std::filesystem::temp_directory_path() / "credence-run-XXXXXX").string();
      name = mkdtemp(pattern.data());
    }
    directory_ = world_->broadcast_text(name, 0);
  }
  void TearDown() override {
    world_->barrier();
    if (world_->rank() == 0) std::filesystem::remove_all(directory_);
  }
  /// Trains from `state` and waits for the last checkpoint.
  void train_and_save(State& state, std::int64_t last) {
    std::unique_ptr<BackgroundWriter> writer;
    if (world_->rank() == 0) writer = std::make_unique<BackgroundWriter>(directory_, 2);
    Training(*world_).train(state, last, writer.get());
    if (writer) {
      while (!writer->wait_until_idle(std::chrono::milliseconds(20))) world_->progress();
      EXPECT_EQ(writer->take_failure(), std::nullopt);
      EXPECT_EQ(writer->published_step(), last);
    }
    world_->barrier();
  }

  std::unique_ptr<Communicator> world_ = make_mpi_communicator(mpi_session(), {.timeout_seconds = 60.0});
  std::filesystem::path directory_;
};

TEST_F(WholeRun, EndsInTheBitsOfOneProcessAndLearns) {
  const State expected = alone();
  State state;
  train_and_save(state, kSteps);
  EXPECT_TRUE(state == expected);
  const auto mean_of = [&](auto first, auto last) {
    return std::accumulate(first, last, 0.0) / static_cast<double>(last - first);
  };
  const double begin = mean_of(state.loss.begin(), state.loss.begin() + 5);
  EXPECT_LT(mean_of(state.loss.end() - 5, state.loss.end()), 0.7 * begin);
}

TEST_F(WholeRun, GoesOnFromItsCheckpointInTheSameBits) {
  {
    State state;
    train_and_save(state, kStopped);
  }
  State state = Training(*world_).resume(directory_);
  EXPECT_EQ(state.step, kStopped);
  train_and_save(state, kSteps);
  EXPECT_TRUE(state == alone());
  EXPECT_TRUE(Training(*world_).resume(directory_) == state) << "the last checkpoint holds the whole run";
}

TEST_F(WholeRun, PassesOverADamagedCheckpoint) {
  State state;
  train_and_save(state, kStopped);
  if (world_->rank() == 0) {
    const auto newest = directory_ / checkpoint_name(kStopped);
    std::filesystem::resize_file(newest, std::filesystem::file_size(newest) - 1);
  }
  State resumed = Training(*world_).resume(directory_);
  EXPECT_EQ(resumed.step, kStopped - 5);
  train_and_save(resumed, kSteps);
  EXPECT_TRUE(resumed == alone());
}

}  // namespace
}  // namespace credence::testing
