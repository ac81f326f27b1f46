#include "credence/communication/deadline.h"

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "credence/base/errors.h"
#include "credence/base/log.h"

namespace credence {

Deadline::Deadline(double seconds, std::string what)
    : thread_([this, seconds, text = std::move(what)] { watch(seconds, text); }) {}

Deadline::~Deadline() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Deadline::watch(double seconds, const std::string& what) {
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return over_; })) return;
  fmt::print(stderr, "error: on {}: waited {:.0f} s for {}\n", host_name(), seconds, what);
  _exit(static_cast<int>(ExitCode::lost_rank));
}

}  // namespace credence
