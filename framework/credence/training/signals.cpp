#include "credence/training/signals.h"

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>

namespace credence {
namespace {

constexpr std::int64_t kOneRequest = 1'000'000'000;  // nanoseconds: a launcher and the terminal may both send one

std::atomic<std::int64_t> first_request{0};
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "the handler may use it");

void handle_stop(int signal) {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);  // a handler may; the clock on the wall can be set back
  const std::int64_t now = std::int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
  std::int64_t earlier = 0;
  if (first_request.compare_exchange_strong(earlier, now)) return;
  if (signal == SIGUSR2 || now - earlier <= kOneRequest) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // delivered when this handler returns
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = handle_stop;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  ignore_limit_signals();
}

void ignore_limit_signals() {
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
}

bool stop_requested() {
  return first_request.load() != 0;
}

}  // namespace credence
