#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace credence {

/// Pauses between polls: a short while of yielding, since small messages take microseconds, then sleeps that double up
/// to 200 us, since ranks and compute threads may share the cores.
class Backoff {
 public:
  void pause() {
    if (yields_ < kYields) {
      ++yields_;
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, kLongest);
  }
  /// Whether the next pause sleeps.
  bool sleeps() const { return yields_ >= kYields; }
  void reset() {
    yields_ = 0;
    sleep_ = kShortest;
  }

 private:
  static constexpr int kYields = 100;  // some 50 us of polling
  static constexpr std::chrono::microseconds kShortest{1};
  static constexpr std::chrono::microseconds kLongest{200};
  int yields_ = 0;
  std::chrono::microseconds sleep_ = kShortest;
};

}  // namespace credence
