#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace credence::checkpoints {

/// Who holds a run directory, as its file `lock` says: lines "KEY VALUE".
struct LockOwner {
  std::string host;
  std::string machine;  // boot and process-number space: where they are equal, a process number means the same process
  long process = 0;
  long long started = 0;  // clock ticks after boot, so that a reused number is told apart
  std::string since;      // UTC, for people
  std::string token;      // differs for every lock ever taken

  bool operator==(const LockOwner&) const = default;
};

LockOwner this_process();
std::string to_text(const LockOwner& owner);
/// Nothing where the text is not one of to_text().
std::optional<LockOwner> parse_owner(const std::string& text);

enum class Life { alive, dead, elsewhere };
/// Whether the owner's process runs; `elsewhere` where this machine cannot tell.
Life life_of(const LockOwner& owner);

}  // namespace credence::checkpoints
