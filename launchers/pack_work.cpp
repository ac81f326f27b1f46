#include "pack_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>

#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/training/signals.h"

namespace credence {
namespace {

constexpr double kExchangeSeconds = 1.0;  // between two looks at what other ranks have done

/// Sums over ranks.
struct Tally {
  std::int64_t done = 0;
  std::int64_t bad = 0;
  std::int64_t running = 0;
  std::int64_t stop = 0;
};

Tally exchange(Communicator& control, Work& work) {
  std::int64_t sums[] = {work.done, work.bad, work.running() ? 1 : 0, stop_requested() ? 1 : 0};
  control.all_reduce({sums, 4, DType::int64}, Reduction::sum).wait();
  control.agree(work.error());
  return {sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace

Work::~Work() {
  stop_ = true;
  join();
}

void Work::start(const std::function<void()>& work, int threads) {
  running_ += threads;
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, work] {
      try {
        work();
      } catch (const Error& error) {
        fail(error.code(), error.what());
      } catch (const std::exception& error) {
        fail(ExitCode::internal, error.what());
      }
      --running_;
    });
  }
}

void Work::join() {
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

std::optional<std::pair<ExitCode, std::string>> Work::error() {
  const std::lock_guard lock(mutex_);
  return error_;
}

void Work::fail(ExitCode code, const std::string& message) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = {code, message};
  stop_ = true;
}

void Packing::start(std::vector<std::int64_t> records, PartWriter& writer, Work& work, int threads) {
  records_ = std::move(records);
  packing_ = threads;
  work.start([this, &writer, &work] { pack(writer, work); }, threads);
  work.start([this, &writer, &work] { keep_synced(writer, work); }, 1);
}

void Packing::keep_synced(PartWriter& writer, const Work& work) const {
  while (packing_ > 0 && !work.stopping()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    writer.sync_if_due();
  }
  writer.sync();
}

void Packing::pack(PartWriter& writer, Work& work) {
  Packers packers;
  for (const PackSource& source : job_.sources)
    packers.push_back(std::make_unique<RecordPacker>(*source.store, job_.settings));
  while (!work.stopping()) {
    const std::size_t i = next_++;
    if (i >= records_.size()) break;
    pack_one(records_[i], packers, writer, work);
  }
  writer.sync();
  --packing_;
}

void Packing::pack_one(std::int64_t record, Packers& packers, PartWriter& writer, Work& work) {
  const PackRecord place = record_of(job_.sources, record);
  const Digest& key = job_.keys[static_cast<std::size_t>(record)];
  RecordPacker& packer = *packers[place.store == job_.sources.front().store ? 0 : 1];
  try {
    writer.append(key, packer.pack(place.number));
  } catch (const DataError& error) {
    const std::string name = place.store->name(place.number);
    const std::string message = fmt::format("{}: {}", name, without_name(error.what(), name));
    const std::int64_t bad = ++work.bad;
    if (bad > job_.bad_allowed) {
      throw DataError(job_.bad_allowed == 0 ? message + "; --max-bad-records leaves such records out" : message);
    }
    log_warning("left out, {} of {} bad records allowed: {}", bad, job_.bad_allowed, message);
    writer.append_bad(key);
  }
  ++work.done;
}

bool look_after(Communicator& control, Work& work, const WorkLimits& limits) {
  const Stopwatch watch;
  Stopwatch since_line;
  for (;;) {
    const Stopwatch pause;
    while (work.running() && pause.seconds() < kExchangeSeconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const Tally tally = exchange(control, work);
    const std::int64_t done = limits.before + tally.done;
    if (since_line.seconds() >= 5.0 || tally.running == 0) {
      const double rate = static_cast<double>(tally.done) / std::max(watch.seconds(), 1e-9);
      log_info("{} {} of {} images ({:.1f} %), {:.0f} images/s{}", limits.what, done, limits.total,
               100.0 * static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(limits.total, 1)), rate,
               tally.bad > 0 ? fmt::format(", {} bad", tally.bad) : "");
      since_line.restart();
    }
    if (tally.bad > limits.bad_allowed) {
      throw DataError(fmt::format("{} images cannot be read, {} more than --max-bad-records allows", tally.bad,
                                  tally.bad - limits.bad_allowed));
    }
    if (tally.stop > 0) work.stop();
    if (tally.running > 0) continue;
    work.join();
    return tally.stop == 0;
  }
}

}  // namespace credence
