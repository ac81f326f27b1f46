// GoogleTest under mpirun. Every rank runs every test; a failure on any rank fails the program on all.
// --ranks=N or CREDENCE_TEST_RANKS: fails where MPI has another number of them, so that a missing MPI is no silent
// pass.
#include "support/mpi_test.h"

#include <gmock/gmock.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "credence/communication/factory.h"

namespace credence::testing {

namespace {

MpiSession* the_session = nullptr;

/// Failures with their rank. Other ranks than 0 print nothing else.
class RankPrinter final : public ::testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(int rank) : rank_(rank) {}

 private:
  void OnTestStart(const ::testing::TestInfo& test) override {
    // Remembered here: asking UnitTest for it while it reports a failure would wait for UnitTest's own lock.
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s failed at %s:%d\n%s\n", rank_, test_.c_str(),
                 result.file_name() ? result.file_name() : "unknown file", result.line_number(), result.message());
  }
  std::string test_ = "outside of all tests";
  int rank_;
};

int expected_ranks(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--ranks=", 8) == 0) return std::atoi(argv[i] + 8);
  }
  const char* ranks = std::getenv("CREDENCE_TEST_RANKS");
  return ranks ? std::atoi(ranks) : 0;
}

/// 1 if any rank failed.
int agree_on_result(MpiSession& session, int result) {
  try {
    MpiOptions options;
    options.order = ReductionOrder::fast;
    options.timeout_seconds = 60.0;
    return make_mpi_communicator(session, options)->any(result != 0) ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "[rank %d] %s\n", session.rank(), error.what());
    return 1;
  }
}

}  // namespace

MpiSession& mpi_session() {
  return *the_session;
}

int run(int argc, char** argv) {
  MpiSession session(argc, argv);
  the_session = &session;
  ::testing::InitGoogleMock(&argc, argv);
  const int expected = expected_ranks(argc, argv);
  if (expected != 0 && expected != session.size()) {
    std::fprintf(stderr, "%d ranks expected, MPI has %d\n", expected, session.size());
    leave(session, 1, "another number of ranks than the test expects");
  }
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankPrinter(session.rank()));
  const int result = RUN_ALL_TESTS();
  leave(session, agree_on_result(session, result), "a test failed");
}

}  // namespace credence::testing

int main(int argc, char** argv) {
  return credence::testing::run(argc, argv);
}
