#include "credence/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <vector>

#include "credence/base/errors.h"

namespace credence {

void open_log(const LogOptions& options) {
  std::vector<spdlog::sink_ptr> sinks;
  auto terminal = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  terminal->set_level(options.rank == 0 && !options.quiet ? spdlog::level::info : spdlog::level::warn);
  terminal->set_pattern(options.rank == 0 ? "%^%v%$" : fmt::format("%^[rank {}] %v%$", options.rank));
  sinks.push_back(terminal);
  if (options.directory) {
    const auto file =
        *options.directory / (options.rank == 0 ? std::string("log.txt") : fmt::format("log-{}.txt", options.rank));
    try {
      auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string());
      sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
      sinks.push_back(sink);
    } catch (const spdlog::spdlog_ex& error) {
      throw StorageError(fmt::format("cannot write the log file {}: {}", file.string(), error.what()));
    }
  }
  auto logger = std::make_shared<spdlog::logger>("credence", sinks.begin(), sinks.end());
  logger->flush_on(spdlog::level::info);
  // A full disk must not take the run down through its log: the terminal has the same lines.
  logger->set_error_handler([](const std::string&) {});
  spdlog::set_default_logger(logger);
}

void log_to_file(const std::string& message) {
  const auto logger = spdlog::default_logger();
  for (const spdlog::sink_ptr& sink : logger->sinks()) {
    if (std::dynamic_pointer_cast<spdlog::sinks::basic_file_sink_mt>(sink) == nullptr) continue;
    try {
      sink->log(spdlog::details::log_msg(logger->name(), spdlog::level::info, message));
      sink->flush();
    } catch (const spdlog::spdlog_ex&) {
      // As for the logger's own lines: a full disk must not take the run down.
    }
  }
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string("unknown host");
}

}  // namespace credence
