// Kernels against the bandwidth of a copy measured in the same run, and against plain loops. See README.md.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <random>

#include "workload.h"

namespace credence::experiments {
namespace {

using kernels::KernelSet;
using kernels::NoiseStream;
using kernels::Rule;
using kernels::Segment;

using Floats = std::vector<float>;

struct Arrays {
  std::vector<Segment> segments = mlp_segments();
  std::int64_t elements = element_count(segments);
  std::size_t size = static_cast<std::size_t>(arena_size(segments));
  Floats mean = Floats(size, 0.01f), raw_scale = Floats(size, -5.0f), gradient = Floats(size, 1e-3f),
         weights = Floats(size), sum = Floats(size), scaled = Floats(size);
  Floats mean_first = Floats(size), mean_second = Floats(size), scale_first = Floats(size), scale_second = Floats(size);
  std::vector<const float*> gradients;
  NoiseStream noise{.seed = 1, .step = 1}, next_noise{.seed = 1, .step = 2};

  Arrays() {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 1e-3f);
    for (float& g : gradient) g = normal(generator);
    for (const Segment& segment : segments) gradients.push_back(gradient.data() + segment.offset);
  }

  kernels::UpdateArrays<float> update_arrays(bool next) {
    return {mean.data(),
            raw_scale.data(),
            mean_first.data(),
            mean_second.data(),
            scale_first.data(),
            scale_second.data(),
            gradients,
            nullptr,
            &noise,
            next ? weights.data() : nullptr,
            next ? &next_noise : nullptr};
  }
};

Arrays& arrays() {
  static Arrays instance;
  return instance;
}

void copy(float* to, const float* from, std::int64_t count, int threads) {
#pragma omp parallel for num_threads(threads)
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i];
}

/// Bytes a second of the fastest of some copies of 64 MiB, read and write counted.
double copy_bandwidth(int threads) {
  static std::vector<double> known(64);
  double& best = known.at(static_cast<std::size_t>(threads));
  if (best > 0) return best;
  const std::int64_t count = 16 << 20;
  Floats from(static_cast<std::size_t>(count), 1.0f), to(from);
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    copy(to.data(), from.data(), count, threads);
    benchmark::DoNotOptimize(to.data());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 8.0 * static_cast<double>(count) / seconds.count());
  }
  return best;
}

/// Counters: what was moved a second, its share of a copy's, time an element.
void report(benchmark::State& state, double bytes_per_element, double elements, int threads) {
  using benchmark::Counter;
  const double bytes = bytes_per_element * elements * static_cast<double>(state.iterations());
  state.counters["bytes"] = Counter(bytes, Counter::kIsRate);
  state.counters["of_copy"] = Counter(bytes / copy_bandwidth(threads), Counter::kIsRate);
  state.counters["per_element"] =
      Counter(elements * static_cast<double>(state.iterations()), Counter::kIsRate | Counter::kInvert);
}

int threads_of(const benchmark::State& state) {
  return static_cast<int>(state.range(0));
}

std::unique_ptr<KernelSet<float>> simd(const benchmark::State& state) {
  return kernels::simd_kernels<float>(threads_of(state));
}

void noise_only(benchmark::State& state) {
  // Blocks that stay in the first-level cache: the time is that of Philox and Box-Muller.
  constexpr std::int64_t kCount = 1024;
  Floats ones(kCount, 1.0f), sum(kCount), eps(kCount);
  const auto kernels = simd(state);
  NoiseStream noise{.seed = 1};
  for (auto _ : state) {
    kernels->accumulate({.count = kCount}, ones.data(), noise, false, sum.data(), eps.data());
    ++noise.step;
    benchmark::DoNotOptimize(eps.data());
  }
  report(state, 0, kCount, 1);
}

void draw(benchmark::State& state) {
  Arrays& a = arrays();
  const auto kernels = simd(state);
  for (auto _ : state) kernels->draw(a.segments, a.mean.data(), a.raw_scale.data(), a.noise, a.weights.data());
  report(state, kDrawBytes, static_cast<double>(a.elements), threads_of(state));
}

void accumulate(benchmark::State& state) {
  Arrays& a = arrays();
  const auto kernels = simd(state);
  for (auto _ : state) {
    for (std::size_t s = 0; s < a.segments.size(); ++s) {
      kernels->accumulate(a.segments[s], a.gradients[s], a.noise, true, a.sum.data(), a.scaled.data());
    }
  }
  report(state, kAccumulateBytes, static_cast<double>(a.elements), threads_of(state));
}

void run_updates(benchmark::State& state, bool next, bool gaussian, double bytes) {
  Arrays& a = arrays();
  std::vector<Segment> segments = a.segments;
  for (Segment& segment : segments) segment.gaussian = gaussian;
  const auto kernels = simd(state);
  std::int64_t step = 0;
  for (auto _ : state) benchmark::DoNotOptimize(kernels->update(segments, adam_rule(++step), a.update_arrays(next)));
  report(state, bytes, static_cast<double>(a.elements), threads_of(state));
}

void update(benchmark::State& state) {
  run_updates(state, false, true, kUpdateBytes);
}
void update_and_draw(benchmark::State& state) {
  run_updates(state, true, true, kUpdateDrawBytes);
}
void update_point(benchmark::State& state) {
  run_updates(state, false, false, kPointBytes);
}

void measure(benchmark::State& state) {
  Arrays& a = arrays();
  const auto kernels = simd(state);
  for (auto _ : state) benchmark::DoNotOptimize(kernels->measure(a.segments, adam_rule(1), a.update_arrays(false)));
  report(state, 4 * 3, static_cast<double>(a.elements), threads_of(state));
}

/// What a plain program does: the standard library's normal numbers, exp and log a call each.
void plain_draw(benchmark::State& state) {
  Arrays& a = arrays();
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (auto _ : state) {
    for (std::size_t i = 0; i < a.size; ++i) {
      a.weights[i] = a.mean[i] + std::log1p(std::exp(a.raw_scale[i])) * normal(generator);
    }
    benchmark::DoNotOptimize(a.weights.data());
  }
  report(state, kDrawBytes, static_cast<double>(a.size), 1);
}

/// Adam of a deterministic network as a loop that the compiler vectorises for the build's baseline processor.
void plain_adam(benchmark::State& state) {
  Arrays& a = arrays();
  const int threads = threads_of(state);
  float *p = a.mean.data(), *m = a.mean_first.data(), *v = a.mean_second.data();
  const float* g = a.gradient.data();
  for (auto _ : state) {
#pragma omp parallel for simd num_threads(threads)
    for (std::size_t i = 0; i < a.size; ++i) {
      m[i] = 0.9f * m[i] + 0.1f * g[i];
      v[i] = 0.999f * v[i] + 0.001f * g[i] * g[i];
      p[i] -= 1e-3f * m[i] / (std::sqrt(v[i]) + 1e-8f);
    }
    benchmark::DoNotOptimize(p);
  }
  report(state, kPointBytes, static_cast<double>(a.size), threads);
}

void copy_bytes(benchmark::State& state) {
  Arrays& a = arrays();
  for (auto _ : state) {
    copy(a.weights.data(), a.mean.data(), static_cast<std::int64_t>(a.size), threads_of(state));
    benchmark::DoNotOptimize(a.weights.data());
  }
  report(state, 8, static_cast<double>(a.size), threads_of(state));
}

BENCHMARK(noise_only)->Arg(1);
BENCHMARK(copy_bytes)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(draw)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(accumulate)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(update)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(update_and_draw)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(update_point)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(measure)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(plain_draw)->Arg(1);
BENCHMARK(plain_adam)->Arg(1)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace credence::experiments

BENCHMARK_MAIN();
