#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "credence/base/errors.h"
#include "credence/communication/communicator.h"
#include "credence/data/pack_parts.h"
#include "credence/data/pack_record.h"
#include "credence/data/pack_write.h"

namespace credence {

/// Threads of this rank that do their share of the records, or rank 0's assembling.
class Work {
 public:
  std::atomic<std::int64_t> done = 0;
  std::atomic<std::int64_t> bad = 0;

  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  /// Asks the threads to stop and waits for them.
  ~Work();

  /// Runs `work` on each of so many threads, beside those started before. What one throws is kept, and stops the
  /// others.
  void start(const std::function<void()>& work, int threads);
  void stop() { stop_ = true; }
  bool stopping() const { return stop_; }
  bool running() const { return running_ > 0; }
  void join();
  std::optional<std::pair<ExitCode, std::string>> error();

 private:
  void fail(ExitCode code, const std::string& message);

  std::atomic<bool> stop_ = false;
  std::atomic<int> running_ = 0;
  std::mutex mutex_;
  std::optional<std::pair<ExitCode, std::string>> error_;
  std::vector<std::thread> threads_;
};

/// This rank's share of the records that are left: packed by some threads, synced by another.
class Packing {
 public:
  struct Job {
    const std::vector<PackSource>& sources;
    const std::vector<Digest>& keys;  // of all records
    PackSettings settings;
    std::int64_t bad_allowed = 0;
  };
  explicit Packing(const Job& job) : job_(job) {}
  void start(std::vector<std::int64_t> records, PartWriter& writer, Work& work, int threads);

 private:
  using Packers = std::vector<std::unique_ptr<RecordPacker>>;  // one a source
  void pack(PartWriter& writer, Work& work);
  void pack_one(std::int64_t record, Packers& packers, PartWriter& writer, Work& work);
  void keep_synced(PartWriter& writer, const Work& work) const;

  Job job_;
  std::vector<std::int64_t> records_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<int> packing_ = 0;  // threads
};

/// What lines of progress say, and how many bad records all ranks may meet.
struct WorkLimits {
  const char* what;
  std::int64_t before = 0;  // done by earlier runs
  std::int64_t total = 0;
  std::int64_t bad_allowed = 0;
};

/// Looks after the work of all ranks until it is done; false where a stop was asked for. Collective: what fails on one
/// rank is thrown on all.
bool look_after(Communicator& control, Work& work, const WorkLimits& limits);

}  // namespace credence
