// What every communicator must satisfy. A test program instantiates the suite with its backends:
//   INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorLaws, Values(Backend{...}), backend_name);
// The same program runs on one, two and four ranks. All ranks run all tests, so nothing here returns early on one rank.
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "credence/base/context.h"
#include "credence/communication/communicator.h"
#include "support/contributions.h"

namespace credence::testing {

struct Backend {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
  bool tree = false;           // bits of the fixed tree over ranks
  bool counts_exactly = true;  // traffic is the payload itself
};

inline std::string backend_name(const ::testing::TestParamInfo<Backend>& info) {
  return info.param.name;
}
inline void PrintTo(const Backend& backend, std::ostream* out) {
  *out << backend.name;
}

class CommunicatorLaws : public ::testing::TestWithParam<Backend> {
 protected:
  std::unique_ptr<Communicator> owner_ = GetParam().make();
  Communicator& world_ = *owner_;

  /// Empty, smaller than the number of ranks, not divisible by it, with many pieces per chunk.
  static std::vector<std::int64_t> counts() { return {0, 1, 2, 3, 7, 31, 64, 1000, 100'003, 3'000'001}; }

  template <class T>
  void expect_sums() {
    for (const std::int64_t count : counts()) {
      std::vector<T> values = counted<T>(world_.rank(), count);
      world_.all_reduce(whole(values), Reduction::sum).wait();
      EXPECT_TRUE(values == counted_sum<T>(world_.size(), count)) << count << " elements";
    }
  }

  template <class T>
  void expect_maxima() {
    for (const std::int64_t count : counts()) {
      std::vector<T> values(static_cast<std::size_t>(count));
      std::vector<T> expected(static_cast<std::size_t>(count));
      for (std::size_t i = 0; i < values.size(); ++i) {
        // Another rank holds the maximum at each element, and it may be negative.
        const auto of_rank = [&](int rank) {
          const auto distance = (static_cast<int>(i % 7) + rank) % world_.size();
          return static_cast<T>(-distance - static_cast<int>(i % 5));
        };
        values[i] = of_rank(world_.rank());
        expected[i] = of_rank(0);
        for (int rank = 1; rank < world_.size(); ++rank) expected[i] = std::max(expected[i], of_rank(rank));
      }
      world_.all_reduce(whole(values), Reduction::max).wait();
      EXPECT_TRUE(values == expected) << count << " elements";
    }
  }
};

TEST_P(CommunicatorLaws, SumsFloat32) {
  expect_sums<float>();
}
TEST_P(CommunicatorLaws, SumsFloat64) {
  expect_sums<double>();
}
TEST_P(CommunicatorLaws, SumsInt64) {
  expect_sums<std::int64_t>();
}
TEST_P(CommunicatorLaws, FindsMaximaFloat32) {
  expect_maxima<float>();
}
TEST_P(CommunicatorLaws, FindsMaximaFloat64) {
  expect_maxima<double>();
}
TEST_P(CommunicatorLaws, FindsMaximaInt64) {
  expect_maxima<std::int64_t>();
}

TEST_P(CommunicatorLaws, LeavesTheNeighboursOfABufferAlone) {
  std::vector<float> values(1027, -5.0F);
  for (std::size_t i = 1; i < 1026; ++i) values[i] = static_cast<float>(world_.rank() + 1);
  world_.all_reduce(Buffer{values.data() + 1, 1025, DType::float32}, Reduction::sum).wait();
  const auto sum = static_cast<float>(world_.size() * (world_.size() + 1) / 2);
  EXPECT_EQ(values.front(), -5.0F);
  EXPECT_EQ(values.back(), -5.0F);
  EXPECT_THAT(std::vector<float>(values.begin() + 1, values.end() - 1), ::testing::Each(sum));
}

TEST_P(CommunicatorLaws, KeepsSeveralInFlightAndIsWaitedForInAnyOrder) {
  constexpr int kOperations = 12;
  std::vector<std::vector<double>> values;
  std::vector<Pending> pending;
  for (int k = 0; k < kOperations; ++k) values.push_back(counted<double>(world_.rank(), 40'000 * (k % 4) + 3 + k));
  for (auto& some : values) pending.push_back(world_.all_reduce(whole(some), Reduction::sum));
  std::vector<int> order(kOperations);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<unsigned>(world_.rank())));
  for (const int k : order) {
    pending[static_cast<std::size_t>(k)].wait();
    const auto& some = values[static_cast<std::size_t>(k)];
    EXPECT_TRUE(some == counted_sum<double>(world_.size(), static_cast<std::int64_t>(some.size()))) << k;
  }
}

TEST_P(CommunicatorLaws, ManyOperationsNeverMixUp) {
  for (int k = 0; k < 500; ++k) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(1 + k % 50), world_.rank() + k);
    world_.all_reduce(whole(values), Reduction::sum).wait();
    const int size = world_.size();
    EXPECT_THAT(values, ::testing::Each(size * (size - 1) / 2 + size * k)) << k;
  }
}

TEST_P(CommunicatorLaws, SumsHaveEqualBitsOnAllRanks) {
  for (const std::int64_t count : {5, 1000, 300'001}) {
    std::vector<float> values = rough<float>(world_.rank(), count);
    world_.all_reduce(whole(values), Reduction::sum).wait();
    std::vector<float> of_rank_0 = values;
    world_.broadcast(whole(of_rank_0), 0).wait();
    EXPECT_TRUE(same_bits(values, of_rank_0)) << count << " elements";
  }
}

TEST_P(CommunicatorLaws, TreeSumsHaveTheBitsOfTheTreeOverRanks) {
  if (!GetParam().tree) return;  // the same on all ranks
  for (const std::int64_t count : {5, 31, 1000, 100'001, 2'500'000}) {
    std::vector<float> values = rough<float>(world_.rank(), count);
    world_.all_reduce(whole(values), Reduction::sum).wait();
    EXPECT_TRUE(same_bits(values, tree_sum_of_ranks<float>(0, world_.size(), count))) << count << " float32";
  }
  for (const std::int64_t count : {5, 31, 32, 33, 1000, 300'001}) {
    std::vector<double> doubles = rough<double>(world_.rank(), count);
    world_.all_reduce(whole(doubles), Reduction::sum).wait();
    EXPECT_TRUE(same_bits(doubles, tree_sum_of_ranks<double>(0, world_.size(), count))) << count << " float64";
  }
}

TEST_P(CommunicatorLaws, TheTreeIsNotTheSumInRankOrder) {
  // Otherwise the test before this one could not tell them apart.
  if (world_.size() < 4) return;
  std::vector<float> in_order = rough<float>(0, 1000);
  for (int rank = 1; rank < world_.size(); ++rank) {
    const std::vector<float> more = rough<float>(rank, 1000);
    for (std::size_t i = 0; i < more.size(); ++i) in_order[i] += more[i];
  }
  EXPECT_FALSE(same_bits(in_order, tree_sum_of_ranks<float>(0, world_.size(), 1000)));
}

TEST_P(CommunicatorLaws, AnAllReduceSendsTwiceAllButOneChunk) {
  std::vector<float> values(static_cast<std::size_t>(world_.size()) * 250'000, 1.0F);
  for (const std::size_t count : {values.size(), static_cast<std::size_t>(world_.size())}) {
    const std::int64_t before = world_.traffic().bytes_sent;
    const std::int64_t operations = world_.traffic().operations;
    world_.all_reduce(Buffer{values.data(), static_cast<std::int64_t>(count), DType::float32}, Reduction::sum).wait();
    const auto bytes = static_cast<std::int64_t>(count * sizeof(float));
    EXPECT_EQ(world_.traffic().bytes_sent - before, 2 * (world_.size() - 1) * (bytes / world_.size()));
    EXPECT_EQ(world_.traffic().operations - operations, 1);
  }
}

TEST_P(CommunicatorLaws, BroadcastsFromEveryRank) {
  for (int root = 0; root < world_.size(); ++root) {
    for (const std::int64_t count : counts()) {
      const int seed = world_.rank() == root ? 40 + root : 0;
      std::vector<float> values = counted<float>(seed, count);
      world_.broadcast(whole(values), root).wait();
      EXPECT_TRUE(values == counted<float>(40 + root, count)) << count << " elements from rank " << root;
    }
    std::vector<std::uint8_t> bytes(13, static_cast<std::uint8_t>(world_.rank() == root ? 200 + root : 0));
    world_.broadcast(whole(bytes), root).wait();
    EXPECT_THAT(bytes, ::testing::Each(200 + root));
  }
}

TEST_P(CommunicatorLaws, BroadcastsSendEachRankOneCopy) {
  const std::int64_t before = world_.traffic().bytes_sent;
  std::vector<float> values(1000);
  world_.broadcast(whole(values), 0).wait();
  std::vector<std::int64_t> sent{world_.traffic().bytes_sent - before};
  world_.all_reduce(whole(sent), Reduction::sum).wait();
  EXPECT_EQ(sent[0], (world_.size() - 1) * 4000);
}

TEST_P(CommunicatorLaws, ReduceScatterSumsThisRanksChunk) {
  for (const std::int64_t chunk : {0, 1, 5, 1000, 700'001}) {
    std::vector<float> values = counted<float>(world_.rank(), chunk * world_.size());
    const std::vector<float> sums = counted_sum<float>(world_.size(), chunk * world_.size());
    world_.reduce_scatter(whole(values), Reduction::sum).wait();
    const auto begin = chunk * world_.rank();
    EXPECT_TRUE(std::equal(sums.begin() + begin, sums.begin() + begin + chunk, values.begin() + begin)) << chunk;
  }
}

TEST_P(CommunicatorLaws, AllGatherCollectsEveryRanksChunk) {
  for (const std::int64_t chunk : {0, 1, 5, 1000, 700'001}) {
    std::vector<double> values(static_cast<std::size_t>(chunk * world_.size()), -1.0);
    std::vector<double> expected;
    for (int rank = 0; rank < world_.size(); ++rank) {
      const std::vector<double> part = counted<double>(rank, chunk);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    const auto begin = chunk * world_.rank();
    std::copy_n(expected.begin() + begin, chunk, values.begin() + begin);
    world_.all_gather(whole(values)).wait();
    EXPECT_TRUE(values == expected) << chunk;
  }
}

TEST_P(CommunicatorLaws, ReduceScatterAndAllGatherTogetherAreAnAllReduce) {
  const std::int64_t count = 1000 * world_.size();
  std::vector<float> values = counted<float>(world_.rank(), count);
  const std::int64_t before = world_.traffic().bytes_sent;
  world_.reduce_scatter(whole(values), Reduction::sum).wait();
  world_.all_gather(whole(values)).wait();
  EXPECT_TRUE(values == counted_sum<float>(world_.size(), count));
  EXPECT_EQ(world_.traffic().bytes_sent - before, 2 * (world_.size() - 1) * 4000);
}

TEST_P(CommunicatorLaws, TextsTravel) {
  const auto text_of = [](int rank) {
    return rank == 1 ? std::string() : "rank " + std::string(3000, 'x') + std::to_string(rank);
  };
  std::vector<std::string> expected;
  for (int rank = 0; rank < world_.size(); ++rank) expected.push_back(text_of(rank));
  EXPECT_EQ(world_.gather_texts(text_of(world_.rank())), expected);
  for (int root = 0; root < world_.size(); ++root) {
    EXPECT_EQ(world_.broadcast_text(text_of(world_.rank()), root), text_of(root));
  }
  EXPECT_EQ(world_.gather_texts(""), std::vector<std::string>(expected.size()));
}

TEST_P(CommunicatorLaws, AnyIsTrueWhereOneRankSaysSo) {
  EXPECT_FALSE(world_.any(false));
  for (int rank = 0; rank < world_.size(); ++rank) EXPECT_TRUE(world_.any(rank == world_.rank())) << rank;
  EXPECT_FALSE(world_.any(false));
}

TEST_P(CommunicatorLaws, NobodyLeavesABarrierBeforeTheLastOneEnters) {
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };  // one clock a machine
  std::this_thread::sleep_for(std::chrono::milliseconds(15 * world_.rank()));
  std::vector<std::int64_t> entered{now()};
  world_.barrier();
  std::vector<std::int64_t> left{-now()};
  world_.all_reduce(whole(entered), Reduction::max).wait();
  world_.all_reduce(whole(left), Reduction::max).wait();
  EXPECT_LE(entered[0], -left[0]);
}

TEST_P(CommunicatorLaws, AgreeThrowsTheLowestFailureOnAllRanks) {
  EXPECT_NO_THROW(world_.agree(std::nullopt));
  for (int lowest = 0; lowest < world_.size(); ++lowest) {
    std::optional<std::pair<ExitCode, std::string>> mine;
    if (world_.rank() == lowest) mine.emplace(ExitCode::unusable_data, "the file is cut");
    if (world_.rank() > lowest) mine.emplace(ExitCode::usage, "another failure");
    std::string message;
    int origin = 0;
    try {
      world_.agree(mine);
    } catch (const DataError& error) {
      message = error.what();
      if (const Origin* known = origin_of(error)) origin = known->rank;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "another kind of error: " << error.what();
    }
    EXPECT_EQ(message, "the file is cut");
    EXPECT_EQ(origin, lowest);
  }
}

TEST_P(CommunicatorLaws, AnErrorThatIsAgreedOnKeepsItsOriginAndContext) {
  const int last = world_.size() - 1;
  set_phase("reading of data");
  if (world_.rank() == last) set_step(7);
  try {
    collectively(world_,
                 [&] { collectively(world_, [&] { require(world_.rank() != last, "no such option\nnor ever"); }); });
    ADD_FAILURE() << "nothing thrown";
  } catch (const UserError& error) {
    const Origin* origin = origin_of(error);
    EXPECT_EQ(origin == nullptr ? 0 : origin->rank, last);
    EXPECT_EQ(origin == nullptr, world_.size() == 1);
    const std::string text = origin == nullptr ? with_context(error.what()) : error.what();
    EXPECT_EQ(text, "no such option (in reading of data, step 7)\nnor ever");
  }
  set_phase("");
}

TEST_P(CommunicatorLaws, WorkAsideEndsBeforeItsCallerAndThrowsWhatItThrows) {
  bool done = false;
  work_aside(world_, [&] { done = true; });
  EXPECT_TRUE(done);
  EXPECT_THROW(work_aside(world_, [] { throw DataError("cut"); }), DataError);
  world_.barrier();
}

TEST_P(CommunicatorLaws, CollectivelyAllFailOrNone) {
  EXPECT_NO_THROW(collectively(world_, [] {}));
  const int last = world_.size() - 1;
  EXPECT_THROW(collectively(world_, [&] { require(world_.rank() != last, "no such option"); }), UserError);
  try {
    collectively(world_, [&] {
      if (world_.rank() == last) throw std::runtime_error("out of luck");
    });
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::internal);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("out of luck"));
  }
  EXPECT_THROW(collectively(world_, [] { throw CommunicationError("everybody lost touch"); }), CommunicationError);
}

TEST_P(CommunicatorLaws, RefusesWhatCannotBeMeant) {
  std::vector<float> values(static_cast<std::size_t>(world_.size()) * 10 + 1, 1.0F);
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<std::uint8_t> bytes(8);
  EXPECT_THROW(static_cast<void>(world_.all_reduce(Buffer{nullptr, 4}, Reduction::sum)), InternalError);
  EXPECT_THROW(static_cast<void>(world_.all_reduce(Buffer{values.data(), -1}, Reduction::sum)), InternalError);
  EXPECT_THROW(static_cast<void>(world_.all_reduce(whole(bytes), Reduction::sum)), InternalError);
  EXPECT_THROW(static_cast<void>(world_.broadcast(whole(values), world_.size())), InternalError);
  EXPECT_THROW(static_cast<void>(world_.broadcast(whole(values), -1)), InternalError);
  if (world_.size() > 1) {
    EXPECT_THROW(static_cast<void>(world_.all_gather(whole(values))), InternalError);
    EXPECT_THROW(static_cast<void>(world_.reduce_scatter(whole(values), Reduction::sum)), InternalError);
  }
  Pending first = world_.all_reduce(Buffer{values.data(), count - 1}, Reduction::sum);
  EXPECT_THROW(static_cast<void>(world_.all_reduce(Buffer{values.data() + count - 2, 2}, Reduction::sum)),
               InternalError);
  Pending beside = world_.all_reduce(Buffer{values.data() + count - 1, 1}, Reduction::sum);
  first.wait();
  beside.wait();
  EXPECT_NO_THROW(world_.all_reduce(whole(values), Reduction::sum).wait());
  const auto ranks = static_cast<float>(world_.size());
  EXPECT_THAT(values, ::testing::Each(ranks * ranks));
}

TEST_P(CommunicatorLaws, ProgressMayBeAskedForAtAnyTime) {
  world_.progress();
  std::vector<double> values = counted<double>(world_.rank(), 200'000);
  Pending pending = world_.all_reduce(whole(values), Reduction::sum);
  for (int k = 0; k < 100; ++k) world_.progress();
  pending.wait();
  world_.progress();
  EXPECT_TRUE(values == counted_sum<double>(world_.size(), 200'000));
}

}  // namespace credence::testing
