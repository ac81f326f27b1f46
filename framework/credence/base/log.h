#pragma once

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <optional>
#include <string>

namespace credence {

struct LogOptions {
  int rank = 0;
  int size = 1;
  bool quiet = false;                              // nothing below warnings on the terminal
  std::optional<std::filesystem::path> directory;  // also log.txt (rank 0) or log-RANK.txt there
};

/// Sets up the process's log: rank 0 to stderr, other ranks warnings and errors to stderr with their rank; all to a
/// file where a directory is given. Messages go through log_info, log_warning, log_error; thread safe.
void open_log(const LogOptions& options);

template <class... Args>
void log_info(fmt::format_string<Args...> message, Args&&... args) {
  spdlog::info(fmt::format(message, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> message, Args&&... args) {
  spdlog::warn(fmt::format(message, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> message, Args&&... args) {
  spdlog::error(fmt::format(message, std::forward<Args>(args)...));
}

/// To the files of the log alone, where the terminal shows the same in another way.
void log_to_file(const std::string& message);

/// Name of this host, for messages.
std::string host_name();

}  // namespace credence
