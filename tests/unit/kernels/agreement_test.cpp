// One result, whatever computes it: SIMD on every instruction set of this machine, and any number of threads, give the
// bits of the reference.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "arena_agreement.h"

namespace credence::kernels::test {
namespace {

/// The reference on two threads and SIMD on one and on two, for each instruction set.
class Agreement : public ::testing::Test {
 protected:
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }

  template <class Compare>
  void for_each_implementation(const Compare& compare) {
    compare(*reference_kernels<float>(2), "reference on two threads");
    int targets_with_fma = 0;
    for (std::int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
      const std::int64_t target = targets & -targets;
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(target);
      for (const int threads : {1, 2}) {
        const auto kernels = simd_kernels<float>(threads);
        targets_with_fma += kernels->name() == "simd";
        compare(*kernels, std::string(hwy::TargetName(target)) + " on " + std::to_string(threads));
      }
      hwy::SetSupportedTargetsForTest(0);
      hwy::GetChosenTarget().DeInit();
    }
#if defined(__x86_64__)
    const int expected = 2 * (__builtin_cpu_supports("fma") != 0) + 2 * (__builtin_cpu_supports("avx512vl") != 0);
    EXPECT_GE(targets_with_fma, expected) << "this processor has instructions whose SIMD kernels did not run";
#endif
  }
};

TEST_F(Agreement, Draw) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_draw(kernels, what); });
}

TEST_F(Agreement, Scales) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_scales(kernels, what); });
}

TEST_F(Agreement, AccumulateAndAdd) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_accumulate(kernels, what); });
}

TEST_F(Agreement, Update) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_updates(kernels, what); });
}

TEST_F(Agreement, RunsOfUpdates) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_runs_of_updates(kernels, what); });
}

TEST_F(Agreement, KeepsNoiseOfFewElementsOnly) {
  const Segment few{.count = 1000000}, many{.count = 20000000};
  EXPECT_EQ(reference_kernels<float>(1)->kept_bytes({&few, 1}), 0);
  const auto kernels = simd_kernels<float>(1);
  if (kernels->name() == "simd") {
    EXPECT_NEAR(static_cast<double>(kernels->kept_bytes({&few, 1})), 4e6, 1e4);
  }
  EXPECT_EQ(kernels->kept_bytes({&many, 1}), 0);
}

TEST_F(Agreement, Measure) {
  for_each_implementation([](auto& kernels, const std::string& what) { compare_measure(kernels, what); });
}

}  // namespace
}  // namespace credence::kernels::test
