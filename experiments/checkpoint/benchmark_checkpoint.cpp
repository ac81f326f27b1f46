// What a checkpoint costs: MB/s written (synced, read back, verified), MB/s opened and read (all digests compared), and
// the milliseconds for which BackgroundWriter::submit() holds training up. The directory is CREDENCE_BENCHMARK_DIR,
// else /tmp.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "credence/checkpoint/background_writer.h"
#include "credence/checkpoint/checkpoint.h"

namespace {

constexpr std::int64_t kMegabyte = 1'000'000;

/// A mean-field state of `megabytes`: mean, raw_scale and two optimizer slots over tensors of about 4 MB.
class State {
 public:
  explicit State(std::int64_t megabytes) : values_(static_cast<std::size_t>(megabytes * kMegabyte / 4), 0.5f) {
    contents_.config = "network = lenet5\n";
    for (const char* name : {"step", "epoch", "seed", "shards", "world_size", "dataset_size"}) {
      contents_.attributes[name] = std::int64_t{1};
    }
    const auto total = static_cast<std::int64_t>(values_.size());
    for (std::int64_t at = 0, i = 0; at < total; at += kMegabyte, ++i) {
      const std::string name = "posterior/layer" + std::to_string(i) + ".weight/mean";
      contents_.arrays.push_back(
          {name, credence::DType::float32, {std::min(kMegabyte, total - at)}, &values_[static_cast<std::size_t>(at)]});
    }
  }
  const credence::CheckpointContents& contents() const { return contents_; }

 private:
  std::vector<float> values_;
  credence::CheckpointContents contents_;
};

class Directory {
 public:
  Directory() {
    const char* parent = std::getenv("CREDENCE_BENCHMARK_DIR");
    path_ = std::filesystem::path(parent == nullptr ? "/tmp" : parent) / ("benchmark-" + std::to_string(getpid()));
    std::filesystem::create_directory(path_);
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void write(benchmark::State& state) {
  const Directory directory;
  const State run(state.range(0));
  for (auto _ : state) credence::write_checkpoint(directory.path() / "a.h5", run.contents());
  state.SetBytesProcessed(state.iterations() * state.range(0) * kMegabyte);
}

void open_and_read(benchmark::State& state) {
  const Directory directory;
  State run(state.range(0));
  credence::write_checkpoint(directory.path() / "a.h5", run.contents());
  for (auto _ : state) {
    const credence::Checkpoint checkpoint(directory.path() / "a.h5");
    for (const credence::ArrayView& array : run.contents().arrays) checkpoint.read(array);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0) * kMegabyte);
}

/// With the writer idle, as it is when a save takes less time than the interval between two.
void submit(benchmark::State& state) {
  const Directory directory;
  const State run(state.range(0));
  credence::BackgroundWriter writer(directory.path(), 2);
  std::int64_t step = 0;
  for (; step < 2; ++step) writer.submit(step, run.contents());  // both buffers exist from here on
  writer.drain();
  for (auto _ : state) {
    writer.submit(step++, run.contents());
    state.PauseTiming();
    writer.drain();
    state.ResumeTiming();
  }
}

/// The first save of a run, whose buffer is fresh memory.
void first_submit(benchmark::State& state) {
  const Directory directory;
  const State run(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    {
      credence::BackgroundWriter writer(directory.path(), 2);
      state.ResumeTiming();
      writer.submit(1, run.contents());
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
}

BENCHMARK(write)->Arg(1)->Arg(100)->Arg(400)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(open_and_read)->Arg(1)->Arg(100)->Arg(400)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(submit)->Arg(100)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(10);
BENCHMARK(first_submit)->Arg(100)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(5);

}  // namespace

BENCHMARK_MAIN();
