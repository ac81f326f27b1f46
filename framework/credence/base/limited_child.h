#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace credence {

struct ChildLimits {
  double seconds = 20.0;                              // of wall clock and of processor time
  std::size_t memory_bytes = std::size_t{512} << 20;  // beyond what this process has
  std::size_t answer_bytes = std::size_t{256} << 20;
};

/// What `work` returns when run in a forked child of this process. Credence errors that it throws are thrown here as
/// DataError. A child that dies, runs out of memory or takes too long is a DataError that names `file`. `work` must not
/// wait for other threads: the child has none.
std::string run_in_limited_child(const std::filesystem::path& file, const std::function<std::string()>& work,
                                 const ChildLimits& limits = {});

}  // namespace credence
