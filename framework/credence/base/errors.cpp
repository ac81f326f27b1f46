#include "credence/base/errors.h"

namespace credence {

void throw_error(ExitCode code, const std::string& message) {
  switch (code) {
    case ExitCode::usage:
      throw UserError(message);
    case ExitCode::unusable_data:
      throw DataError(message);
    case ExitCode::directory_in_use:
      throw DirectoryInUseError(message);
    case ExitCode::storage:
      throw StorageError(message);
    case ExitCode::lost_rank:
      throw CommunicationError(message);
    case ExitCode::diverged:
      throw NumericalError(message);
    case ExitCode::internal:
      throw Error(ExitCode::internal, message);
    case ExitCode::done:
    case ExitCode::stopped:
      break;
  }
  throw InternalError(fmt::format("not an error: exit code {} ({})", static_cast<int>(code), message));
}

}  // namespace credence
