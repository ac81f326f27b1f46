#include "credence/communication/tree_sum.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "credence/communication/reduction_plan.h"
#include "support/contributions.h"

namespace credence::testing {
namespace {

template <class T>
void expect_tree_order() {
  for (const int ranks : {1, 2, 4, 8, 16, 32}) {
    for (const std::int64_t count : {0, 1, 1023, 1024, 5000}) {
      const std::vector<T> expected = tree_sum_of_ranks<T>(0, ranks, count);
      for (const int result : {0, ranks / 2, ranks - 1}) {
        std::vector<std::vector<T>> contributions;
        std::vector<void*> pointers;
        for (int rank = 0; rank < ranks; ++rank) contributions.push_back(rough<T>(rank, count));
        for (auto& contribution : contributions) pointers.push_back(contribution.data());
        auto& into = contributions[static_cast<std::size_t>(result)];
        reduce_in_tree_order(pointers, into.data(), count, dtype_of<T>, Reduction::sum);
        EXPECT_TRUE(same_bits(into, expected)) << ranks << " ranks, " << count << " elements into " << result;
      }
    }
  }
}

TEST(TreeSum, AddsInTheOrderOfTheTreeFloat32) {
  expect_tree_order<float>();
}
TEST(TreeSum, AddsInTheOrderOfTheTreeFloat64) {
  expect_tree_order<double>();
}

TEST(TreeSum, IntegersWrap) {
  std::vector<std::int64_t> a{std::numeric_limits<std::int64_t>::max()};
  std::vector<std::int64_t> b{1};
  void* const pointers[] = {a.data(), b.data()};
  reduce_in_tree_order(pointers, a.data(), 1, DType::int64, Reduction::sum);
  EXPECT_EQ(a[0], std::numeric_limits<std::int64_t>::min());
}

TEST(TreeSum, NotANumberWinsAMaximumFromAnyRank) {
  for (const std::size_t where : {0U, 1U, 2U, 3U}) {
    std::vector<float> values{1.0F, 2.0F, 3.0F, 4.0F};
    values[where] = std::numeric_limits<float>::quiet_NaN();
    void* const pointers[] = {&values[0], &values[1], &values[2], &values[3]};
    float result = 0.0F;
    reduce_in_tree_order(pointers, &result, 1, DType::float32, Reduction::max);
    EXPECT_TRUE(std::isnan(result)) << where;
  }
}

TEST(TreeSum, BytesAreNotReduced) {
  std::uint8_t byte = 1;
  void* const pointers[] = {&byte, &byte};
  EXPECT_THROW(reduce_in_tree_order(pointers, &byte, 1, DType::uint8, Reduction::sum), InternalError);
}

TEST(ReductionPlan, ChunksCoverTheBufferInOrderAndDifferByAtMostOne) {
  for (const std::int64_t count : {0, 1, 5, 64, 1001}) {
    for (const int size : {1, 2, 3, 4, 7, 64}) {
      EXPECT_EQ(chunk_begin(count, 0, size), 0);
      EXPECT_EQ(chunk_begin(count, size, size), count);
      for (int chunk = 0; chunk < size; ++chunk) {
        EXPECT_GE(chunk_elements(count, chunk, size), count / size);
        EXPECT_LE(chunk_elements(count, chunk, size), count / size + 1);
      }
    }
  }
}

TEST(ReductionPlan, EveryPlaceOfABroadcastHasOneParentThatKnowsIt) {
  for (int size = 1; size <= 70; ++size) {
    std::vector<int> parents(static_cast<std::size_t>(size), BroadcastTree::kNone);
    for (int place = 0; place < size; ++place) {
      const BroadcastTree tree = broadcast_tree(place, size);
      for (int k = 0; k < tree.number_of_children; ++k) {
        EXPECT_GT(tree.children[k], place);
        EXPECT_EQ(std::exchange(parents[static_cast<std::size_t>(tree.children[k])], place), BroadcastTree::kNone);
      }
    }
    for (int place = 0; place < size; ++place) {
      EXPECT_EQ(parents[static_cast<std::size_t>(place)], broadcast_tree(place, size).parent)
          << place << " of " << size;
      EXPECT_EQ(broadcast_tree(place, size).parent == BroadcastTree::kNone, place == 0);
    }
  }
}

}  // namespace
}  // namespace credence::testing
