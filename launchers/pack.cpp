#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <optional>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/data/open.h"
#include "credence/data/pack_record.h"
#include "credence/data/pack_write.h"
#include "pack_work.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr double kSyncSeconds = 0.5;  // what a kill can lose

const std::vector<CommandOption>& pack_extras() {
  static const std::vector<CommandOption> extras = {
      {"what", "SOURCE FILE.h5: images as for --data of train, and the file to make", false, true},
      {"encoding", "keep | jpeg | raw: files' bytes as they are (default), JPEG anew, or pixels"},
      {"short-side", "with jpeg or raw: larger images are scaled down until their short side has so many pixels"},
      {"quality", "of jpeg, 1 to 100 (default 95)"},
      {"overwrite", "replace FILE.h5, and forget what a stopped pack left", true},
      {"json", "one JSON object as last line of stdout", true},
      {"help", "this text", true}};
  return extras;
}
constexpr std::string_view kTrainingOptions[] = {"loader-threads", "max-bad-records", "timeout-seconds"};

PackSettings parse_settings(const CommandLine& line) {
  PackSettings settings;
  const std::vector<std::string> known = {"keep", "jpeg", "raw"};
  const std::string kind = line.text("encoding").value_or("keep");
  const auto found = std::find(known.begin(), known.end(), kind);
  if (found == known.end()) refuse_unknown("encoding", kind, known);
  settings.kind = static_cast<PackSettings::Kind>(found - known.begin());
  require(!line.has("quality") || settings.kind == PackSettings::Kind::jpeg, "--quality is for --encoding jpeg");
  require(!line.has("short-side") || settings.kind != PackSettings::Kind::keep,
          "--short-side changes images: it is for --encoding jpeg or raw");
  if (const auto quality = line.text("quality")) {
    const std::int64_t value = parse_integer(*quality, "--quality");
    require(value >= 1 && value <= 100, "--quality must be between 1 and 100, not {}", value);
    settings.quality = static_cast<int>(value);
  }
  if (const auto side = line.text("short-side")) {
    settings.short_side = parse_integer(*side, "--short-side");
    require(settings.short_side >= 1 && settings.short_side <= 1 << 16,
            "--short-side must be between 1 and 65536, not {}", settings.short_side);
  }
  return settings;
}

/// The images to pack, both splits where there are two.
struct Sources {
  std::vector<std::unique_ptr<ImageStore>> stores;
  std::vector<PackSource> sources;
  std::int64_t records = 0;

  explicit Sources(const std::string& spec) {
    add(open_store(spec, Split::train), PackSplit::train);
    if (stores.front()->has_other_split()) add(open_store(spec, Split::test), PackSplit::test);
    if (stores.front()->serves_both_splits()) sources.front().split = PackSplit::both;
  }

  const ImageStore& store(std::int64_t& record) const {
    for (const auto& part : stores) {
      if (record < part->size()) return *part;
      record -= part->size();
    }
    throw InternalError("a record outside the data was asked for");
  }

 private:
  void add(std::unique_ptr<ImageStore> store, PackSplit split) {
    records += store->size();
    sources.push_back({store.get(), split});
    stores.push_back(std::move(store));
  }
};

/// What makes two packs the same job.
Digest digest_of_job(const Sources& sources, const PackSettings& settings) {
  ExampleSpec spec;
  spec.input_shape = {static_cast<std::int64_t>(settings.kind), settings.short_side, settings.quality};
  ContentDigest digest(spec, sources.records);
  for (const auto& store : sources.stores) {
    digest.add(store->labels());
    store->add_to(digest);
  }
  const std::string text = digest.hexadecimal();
  return digest_of(std::as_bytes(std::span(text)));
}

/// This rank's share of the records that are left.
class Packing {
 public:
  Packing(const Sources& sources, const PackSettings& settings, std::int64_t bad_allowed)
      : sources_(sources), settings_(settings), bad_allowed_(bad_allowed) {}

  void start(std::vector<std::int64_t> records, PartWriter& writer, Work& work, int threads) {
    records_ = std::move(records);
    work.start([this, &writer, &work] { run(writer, work); }, threads);
  }

 private:
  void run(PartWriter& writer, Work& work) {
    std::vector<std::unique_ptr<RecordPacker>> packers;
    for (const auto& store : sources_.stores) packers.push_back(std::make_unique<RecordPacker>(*store, settings_));
    while (!work.stopping()) {
      const std::size_t i = next_++;
      if (i >= records_.size()) break;
      one(records_[i], packers, writer, work);
    }
    const std::lock_guard lock(mutex_);
    writer.sync();
  }

  void one(std::int64_t record, std::vector<std::unique_ptr<RecordPacker>>& packers, PartWriter& writer, Work& work) {
    std::int64_t number = record;
    const ImageStore& store = sources_.store(number);
    const std::size_t place = &store == sources_.stores.front().get() ? 0 : 1;
    try {
      const PackedImage image = packers[place]->pack(number);
      const std::lock_guard lock(mutex_);
      writer.append(record, image);
      writer.sync_if_due(kSyncSeconds);
    } catch (const DataError& error) {
      const std::string message = fmt::format("{}: {}", store.name(number), error.what());
      const std::int64_t bad = ++work.bad;
      if (bad > bad_allowed_) {
        throw DataError(bad_allowed_ == 0 ? message + "; --max-bad-records leaves such records out" : message);
      }
      log_warning("left out, {} of {} bad records allowed: {}", bad, bad_allowed_, message);
      const std::lock_guard lock(mutex_);
      writer.append_bad(record);
    }
    ++work.done;
  }

  const Sources& sources_;
  PackSettings settings_;
  std::int64_t bad_allowed_;
  std::vector<std::int64_t> records_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
};

std::vector<std::int64_t> records_left(std::int64_t records, const std::vector<PlacedEntry>& entries) {
  std::vector<bool> done(static_cast<std::size_t>(records), false);
  for (const PlacedEntry& placed : entries) {
    const std::int64_t record = placed.entry.record;
    if (record >= 0 && record < records) done[static_cast<std::size_t>(record)] = true;
  }
  std::vector<std::int64_t> left;
  for (std::int64_t i = 0; i < records; ++i) {
    if (!done[static_cast<std::size_t>(i)]) left.push_back(i);
  }
  return left;
}

void remove_parts(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& file : fs::directory_iterator(directory)) {
    if (file.path().filename().string().starts_with("part-")) files.push_back(file.path());
  }
  for (const fs::path& file : files) fs::remove(file);
}

std::int64_t count_bad(const std::vector<PlacedEntry>& entries) {
  return std::ranges::count_if(entries, [](const PlacedEntry& placed) { return placed.entry.bad; });
}

}  // namespace

int run_pack(const CommandContext& context) {
  MpiSession& session = context.session;
  const CommandLine line = parse_command_line(context.arguments, pack_extras(), kTrainingOptions);
  if (line.help) {
    print_help(session,
               "credence pack SOURCE FILE.h5 [options]\n\n" + describe_options(pack_extras(), kTrainingOptions));
    return 0;
  }
  const auto what = line.extras.find("what");
  require(what != line.extras.end() && what->second.size() == 2,
          "pack needs two things: SOURCE (images as for --data) and FILE.h5");
  const std::string spec = what->second[0];
  const fs::path file = what->second[1];
  const fs::path parts = file.string() + ".parts";
  const PackSettings settings = parse_settings(line);
  const auto control = make_control_communicator(line.training, session);
  const Machine machine = choose_machine(line.training, session, *control);
  const int threads = line.training.given("loader-threads") ? machine.loader_threads : machine.threads;

  std::unique_ptr<Sources> sources;
  std::unique_ptr<RunDirectoryLock> lock;
  Digest job{};
  collectively(*control, [&] {
    require(line.has("overwrite") || !fs::exists(file), "{} is there already; --overwrite replaces it", file.string());
    sources = std::make_unique<Sources>(spec);
    job = digest_of_job(*sources, settings);
  });
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    std::error_code error;
    fs::create_directories(parts, error);
    if (error) throw StorageError(fmt::format("cannot create {}: {}", parts.string(), error.message()));
    lock = std::make_unique<RunDirectoryLock>(parts);
    if (line.has("overwrite")) remove_parts(parts);
  });
  PartsFound found;
  collectively(*control, [&] { found = read_parts(parts, job); });
  const auto before = static_cast<std::int64_t>(found.entries.size());
  if (before > 0) log_info("going on with what is in {}: {} images are done", parts.string(), before);
  const std::vector<std::int64_t> left = records_left(sources->records, found.entries);
  control->barrier();  // all have read the parts before any adds one

  const auto ranks = static_cast<std::size_t>(session.size());
  const auto rank = static_cast<std::size_t>(session.rank());
  const std::vector<std::int64_t> mine(left.begin() + static_cast<std::ptrdiff_t>(left.size() * rank / ranks),
                                       left.begin() + static_cast<std::ptrdiff_t>(left.size() * (rank + 1) / ranks));
  const Stopwatch watch;
  std::unique_ptr<PartWriter> writer;
  collectively(*control, [&] {
    if (!mine.empty()) writer = std::make_unique<PartWriter>(parts, found.next_part + session.rank(), job);
  });
  const std::int64_t allowed = line.training.integer("max-bad-records") - count_bad(found.entries);
  Packing packing(*sources, settings, allowed);
  Work work;
  if (writer) packing.start(mine, *writer, work, threads);
  if (!look_after(*control, work, {"packed", before, sources->records, allowed})) {
    log_info("stopped on request; run the same command to continue");
    return static_cast<int>(ExitCode::stopped);
  }
  const double packing_seconds = watch.seconds();

  Work assembling;
  std::int64_t bad = 0;
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    found = read_parts(parts, job);
    bad = count_bad(found.entries);
    assembling.start([&] { write_pack(file, parts, sources->sources, std::move(found.entries), assembling.done); }, 1);
  });
  look_after(*control, assembling, {"assembled", 0, sources->records, 0});
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    lock.reset();
    fs::remove_all(parts);
  });
  log_info("packed {} images into {} in {:.1f} s", sources->records - bad, file.string(), watch.seconds());
  if (line.has("json")) {
    print_json(session, {{"file", file.string()},
                         {"images", sources->records - bad},
                         {"bad", bad},
                         {"resumed", before},
                         {"packing_seconds", packing_seconds},
                         {"seconds", watch.seconds()}});
  }
  return 0;
}

}  // namespace credence
