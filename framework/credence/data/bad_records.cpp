#include "credence/data/bad_records.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/base/text.h"
#include "credence/data/image_source.h"

namespace credence {
namespace {

constexpr std::size_t kMostNamed = 4;

using BadRecord = ImageSource::BadRecord;

/// Of every rank, in order: "RECORD WHY", a line each.
std::vector<BadRecord> gather(const std::vector<BadRecord>& mine, Communicator& communicator) {
  std::string text;
  for (BadRecord bad : mine) {
    std::ranges::replace(bad.why, '\n', ' ');
    text += fmt::format("{} {}\n", bad.record, bad.why);
  }
  std::vector<BadRecord> all;
  for (const std::string& lines : communicator.gather_texts(text))
    for (const std::string& line : split(lines, '\n')) {
      if (line.empty()) continue;
      BadRecord bad;
      const auto number = std::from_chars(line.data(), line.data() + line.size(), bad.record);
      bad.why = line.substr(static_cast<std::size_t>(number.ptr - line.data()) + 1);
      all.push_back(std::move(bad));
    }
  return all;
}

}  // namespace

std::int64_t leave_out_bad_records(DataSource& source, std::int64_t allowed, int threads, Communicator& communicator) {
  require(allowed >= 0, "--max-bad-records must not be negative, not {}", allowed);
  auto* const images = dynamic_cast<ImageSource*>(&source);
  if (images == nullptr || allowed == 0) return 0;
  const ImageStore& store = images->store();
  log_info("--max-bad-records: decoding each of the {} images once, to leave out those that are bad", store.size());
  const Stopwatch watch;
  std::vector<BadRecord> mine;
  collectively(communicator, [&] {
    work_aside(communicator, [&] {
      const std::int64_t rank = communicator.rank();
      const std::int64_t ranks = communicator.size();
      mine = images->find_bad(store.size() * rank / ranks, store.size() * (rank + 1) / ranks, allowed, threads);
    });
  });
  std::vector<std::int64_t> records;
  std::vector<std::string> messages;
  for (const BadRecord& bad : gather(mine, communicator)) {
    records.push_back(bad.record);
    messages.push_back(fmt::format("{}: {}", store.name(bad.record), bad.why));
  }
  const auto count = static_cast<std::int64_t>(records.size());
  if (count > allowed) {
    const std::size_t named = std::min(messages.size(), kMostNamed);
    throw DataError(
        fmt::format("more images are bad than the {} that --max-bad-records allows: {}{}", allowed,
                    fmt::join(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(named), "; "),
                    messages.size() > named ? "; ..." : ""));
  }
  if (communicator.rank() == 0)
    for (const std::string& message : messages) log_warning("left out: {}", message);
  log_info("{} bad images of at most {} found in {:.1f} s; the other {} are the data", count, allowed, watch.seconds(),
           store.size() - count);
  if (count > 0) images->leave_out(records);
  return count;
}

}  // namespace credence
