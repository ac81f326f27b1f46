#include "credence/data/on_threads.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace credence {

void on_threads(std::int64_t threads, const std::function<void(std::int64_t)>& work) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
  const auto run = [&](std::int64_t thread) {
    try {
      work(thread);
    } catch (...) {
      errors[static_cast<std::size_t>(thread)] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::int64_t thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
    run(0);
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

void rows_on_threads(std::int64_t count, int threads,
                     const std::function<void(std::int64_t begin, std::int64_t end)>& work) {
  const std::int64_t used = std::clamp<std::int64_t>(count, 1, std::max(threads, 1));
  on_threads(used, [&](std::int64_t thread) { work(count * thread / used, count * (thread + 1) / used); });
}

}  // namespace credence
