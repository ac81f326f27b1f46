#include "pack_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/base/log.h"
#include "credence/data/open.h"
#include "credence/data/pack_assembly.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

Digest digest_of_text(const std::string& text) {
  return digest_of(std::as_bytes(std::span(text)));
}

}  // namespace

PackTask::PackTask(const std::string& spec, const fs::path& to, const PackSettings& how)
    : file(to), parts(to.string() + ".parts"), settings(how) {
  const auto add = [&](std::unique_ptr<ImageStore> store, PackSplit split) {
    sources.push_back({store.get(), split});
    stores.push_back(std::move(store));
  };
  add(open_store(spec, Split::train), PackSplit::train);
  if (stores.front()->has_other_split()) add(open_store(spec, Split::test), PackSplit::test);
  if (stores.front()->serves_both_splits()) sources.front().split = PackSplit::both;
  keys = record_keys(sources);

  ExampleSpec packed;
  packed.input_shape = {static_cast<std::int64_t>(settings.kind), settings.short_side, settings.quality,
                        stores.front()->channels()};
  options = digest_of_text(ContentDigest(packed, 0).hexadecimal());
  ContentDigest content(packed, records());
  for (const auto& store : stores) {
    content.add(store->labels());
    store->add_to(content);
  }
  job = digest_of_text(content.hexadecimal());
}

std::vector<PlacedEntry> PackTask::entries(const PartsFound& found) const {
  std::vector<PlacedEntry> entries = entries_of(keys, found.entries);
  require(found.entries.empty() || !entries.empty(),
          "{} was begun from other data: none of the {} images in it is asked for; give that data to finish it, or "
          "start anew with --overwrite",
          parts.string(), found.entries.size());
  return entries;
}

std::vector<std::int64_t> records_left(const PackTask& task, const std::vector<PlacedEntry>& entries) {
  std::vector<bool> done(task.keys.size(), false);
  for (const PlacedEntry& placed : entries) done[static_cast<std::size_t>(placed.record)] = !placed.entry.bad;
  std::vector<std::int64_t> left;
  for (std::int64_t i = 0; i < task.records(); ++i) {
    if (!done[static_cast<std::size_t>(i)]) left.push_back(i);
  }
  return left;
}

std::int64_t count_bad(const std::vector<PlacedEntry>& entries) {
  return std::ranges::count_if(entries, [](const PlacedEntry& placed) { return placed.entry.bad; });
}

std::int64_t find_finished(const PackTask& task) {
  if (!fs::exists(task.file)) return 0;
  const std::int64_t images = finished_records(task.file, task.job);
  require(images > 0,
          "{} is there already, and is no finished pack of this data with these options; --overwrite "
          "replaces it",
          task.file.string());
  log_info("{} is finished: {} images", task.file.string(), images);
  if (fs::exists(task.parts)) {
    log_info("removing what is left of {}", task.parts.string());
    remove_parts(task.parts, std::make_unique<RunDirectoryLock>(task.parts));
  }
  return images;
}

void create_parts(const fs::path& parts) {
  std::error_code error;
  fs::create_directories(parts, error);
  if (error) throw StorageError(fmt::format("cannot create {}: {}", parts.string(), error.message()));
  sync_directory(fs::absolute(parts).parent_path());
}

void empty_parts(const fs::path& parts) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& file : fs::directory_iterator(parts)) {
    const std::string name = file.path().filename().string();
    if (name.starts_with("part-") || name.starts_with("assembled.")) files.push_back(file.path());
  }
  for (const fs::path& file : files) fs::remove(file);
}

void remove_parts(const fs::path& parts, std::unique_ptr<RunDirectoryLock> lock) {
  empty_parts(parts);
  lock.reset();
  std::error_code others_came;
  fs::remove(parts, others_came);
}

}  // namespace credence
