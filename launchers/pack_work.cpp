#include "pack_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>

#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/training/signals.h"

namespace credence {
namespace {

constexpr double kExchangeSeconds = 1.0;  // between two looks at what other ranks have done

/// Sums over ranks.
struct Tally {
  std::int64_t done = 0;
  std::int64_t bad = 0;
  std::int64_t running = 0;
  std::int64_t stop = 0;
};

Tally exchange(Communicator& control, Work& work) {
  std::int64_t sums[] = {work.done, work.bad, work.running() ? 1 : 0, stop_requested() ? 1 : 0};
  control.all_reduce({sums, 4, DType::int64}, Reduction::sum).wait();
  control.agree(work.error());
  return {sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace

Work::~Work() {
  stop_ = true;
  join();
}

void Work::start(const std::function<void()>& work, int threads) {
  running_ = threads;
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, work] {
      try {
        work();
      } catch (const Error& error) {
        fail(error.code(), error.what());
      } catch (const std::exception& error) {
        fail(ExitCode::internal, error.what());
      }
      --running_;
    });
  }
}

void Work::join() {
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

std::optional<std::pair<ExitCode, std::string>> Work::error() {
  const std::lock_guard lock(mutex_);
  return error_;
}

void Work::fail(ExitCode code, const std::string& message) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = {code, message};
  stop_ = true;
}

bool look_after(Communicator& control, Work& work, const WorkLimits& limits) {
  const Stopwatch watch;
  Stopwatch since_line;
  for (;;) {
    const Stopwatch pause;
    while (work.running() && pause.seconds() < kExchangeSeconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const Tally tally = exchange(control, work);
    const std::int64_t done = limits.before + tally.done;
    if (since_line.seconds() >= 5.0 || tally.running == 0) {
      const double rate = static_cast<double>(tally.done) / std::max(watch.seconds(), 1e-9);
      log_info("{} {} of {} images ({:.1f} %), {:.0f} images/s{}", limits.what, done, limits.total,
               100.0 * static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(limits.total, 1)), rate,
               tally.bad > 0 ? fmt::format(", {} bad", tally.bad) : "");
      since_line.restart();
    }
    if (tally.bad > limits.bad_allowed) {
      throw DataError(fmt::format("{} images cannot be read, {} more than --max-bad-records allows", tally.bad,
                                  tally.bad - limits.bad_allowed));
    }
    if (tally.stop > 0) work.stop();
    if (tally.running > 0) continue;
    work.join();
    return tally.stop == 0;
  }
}

}  // namespace credence
