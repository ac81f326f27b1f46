#pragma once

#include <cstdint>
#include <functional>

namespace credence {

/// Runs work(0), work(1), ... on a thread each, the first on the caller's; the error of the lowest number that had one
/// is thrown once all are done.
void on_threads(std::int64_t threads, const std::function<void(std::int64_t)>& work);

/// Rows [0, count) in contiguous runs on at most so many threads. Errors as above: that of the lowest row, where a run
/// ends at its first.
void rows_on_threads(std::int64_t count, int threads,
                     const std::function<void(std::int64_t begin, std::int64_t end)>& work);

}  // namespace credence
