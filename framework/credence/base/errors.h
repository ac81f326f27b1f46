#pragma once

#include <fmt/core.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace credence {

/// Process exit codes (the same on every rank). Part of the command line's contract.
enum class ExitCode : int {
  done = 0,
  usage = 2,              // options or configuration
  unusable_data = 65,     // dataset or checkpoint
  internal = 70,          // a bug of ours
  directory_in_use = 73,  // another job owns the run directory
  storage = 74,           // input or output keeps failing
  stopped = 75,           // on request, checkpoint written: run the same command again
  lost_rank = 76,         // a rank died or timed out: run the same command again
  diverged = 93           // do not run again
};

/// Root of everything Credence throws on purpose. what() is one sentence for the user.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// What was given, what is allowed, what to do.
class UserError : public Error {
 public:
  explicit UserError(const std::string& message) : Error(ExitCode::usage, message) {}
};

/// Names the file and, where there is one, the record.
class DataError : public Error {
 public:
  explicit DataError(const std::string& message) : Error(ExitCode::unusable_data, message) {}
};

/// Another live job owns the run directory; names the owner.
class DirectoryInUseError : public Error {
 public:
  explicit DirectoryInUseError(const std::string& message) : Error(ExitCode::directory_in_use, message) {}
};

/// Names the file and the failing call with its cause (disk full, read-only, ...).
class StorageError : public Error {
 public:
  explicit StorageError(const std::string& message) : Error(ExitCode::storage, message) {}
};

/// Names the operation, what it waited for and for how long.
class CommunicationError : public Error {
 public:
  explicit CommunicationError(const std::string& message) : Error(ExitCode::lost_rank, message) {}
};

/// Names step, shard and tensor.
class NumericalError : public Error {
 public:
  explicit NumericalError(const std::string& message) : Error(ExitCode::diverged, message) {}
};

/// A broken invariant of ours, with its place in the source.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message, std::source_location where = std::source_location::current())
      : Error(ExitCode::internal,
              fmt::format("{} ({}:{}); this is a bug in Credence", message, where.file_name(), where.line())) {}
};

/// The error of the given kind: what a rank throws for a failure that another rank reported.
[[noreturn]] void throw_error(ExitCode code, const std::string& message);

/// UserError unless the condition holds.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) throw UserError(fmt::format(message, std::forward<Args>(args)...));
}

/// InternalError unless the condition holds. Stays on in release builds.
inline void ensure(bool condition, const char* message, std::source_location where = std::source_location::current()) {
  if (!condition) throw InternalError(message, where);
}

}  // namespace credence
