#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "credence/checkpoint/checkpoint.h"

namespace credence {

/// Writes checkpoints of one run directory from a thread of its own; training stops only for a copy in memory.
/// At most one save is in flight and one waits. After a good save older checkpoints beyond `keep` (never fewer than 2)
/// are deleted; a failed one leaves every older file alone.
class BackgroundWriter {
 public:
  /// `is_lost`: whether the directory is another job's by now, asked from the thread; then nothing is published or
  /// deleted there any more, and each save fails.
  BackgroundWriter(std::filesystem::path directory, int keep, std::function<bool()> is_lost = {});
  ~BackgroundWriter();  // waits for what is in flight
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Copies the contents and returns. Where a save still waits, blocks until it has started.
  void submit(std::int64_t step, const CheckpointContents& contents);

  /// The message of a save that failed since the last call, if any. Never blocks.
  std::optional<std::string> take_failure();
  /// Failed saves in a row, up to now.
  int consecutive_failures() const;
  /// Wait, at most so long, until submit() would not block, or until nothing is in flight: for a caller that has to
  /// look elsewhere meanwhile. Whether it is so.
  bool wait_for_room(std::chrono::milliseconds limit);
  bool wait_until_idle(std::chrono::milliseconds limit);
  /// Blocks until nothing is in flight.
  void drain();
  /// Seconds for which submit(), drain() and the waits held up the caller.
  double blocked_seconds() const;
  /// Step of the newest checkpoint that this writer published, or -1.
  std::int64_t published_step() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace credence
