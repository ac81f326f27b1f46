#include "credence/training/signals.h"

#include <gmock/gmock.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace credence {
namespace {

constexpr int kAsked = 3;  // an exit code of no other meaning here

/// In a process of its own: a signal, and another one after so many seconds.
void ask_twice(int first, int second, int seconds) {
  install_signal_handlers();
  std::raise(first);
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  std::raise(second);
  std::_Exit(stop_requested() ? kAsked : 1);
}

TEST(SignalsDeathTest, TheFirstOnlyAsksAndALaterOneEndsTheProcessWithoutAnExitCode) {
  EXPECT_EXIT(ask_twice(SIGINT, SIGINT, 0), testing::ExitedWithCode(kAsked), "");  // a launcher's and the terminal's
  EXPECT_EXIT(ask_twice(SIGINT, SIGINT, 3), testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(ask_twice(SIGUSR2, SIGTERM, 3), testing::KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(ask_twice(SIGTERM, SIGUSR2, 3), testing::ExitedWithCode(kAsked), "");
}

TEST(SignalsDeathTest, WithoutHandlersTheFirstEndsTheProcess) {
  const auto ask = [](int signal) {
    ignore_limit_signals();
    std::raise(signal);
    std::_Exit(kAsked);
  };
  EXPECT_EXIT(ask(SIGINT), testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(ask(SIGPIPE), testing::ExitedWithCode(kAsked), "");
  EXPECT_EXIT(ask(SIGXFSZ), testing::ExitedWithCode(kAsked), "");
}

}  // namespace
}  // namespace credence
