#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"
#include "credence/base/text.h"
#include "credence/checkpoint/run_directory.h"
#include "credence/data/pack_assembly.h"
#include "credence/data/pack_record.h"
#include "pack_task.h"
#include "pack_work.h"

namespace credence {
namespace {

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

struct PackResult {
  std::int64_t images = 0;
  std::int64_t resumed = 0;
  double packing_seconds = 0.0;
  double seconds = 0.0;
};

void report(const CommandContext& context, const CommandLine& line, const PackTask& task, const PackResult& result) {
  if (!line.has("json")) return;
  print_json(context.session, {{"file", task.file.string()},
                               {"images", result.images},
                               {"bad", task.records() - result.images},
                               {"resumed", result.resumed},
                               {"packing_seconds", result.packing_seconds},
                               {"seconds", result.seconds}});
}

int stopped() {
  log_info("stopped on request; run the same command to continue");
  return static_cast<int>(ExitCode::stopped);
}

struct PackLimits {
  int threads = 1;
  std::int64_t bad_allowed = 0;
};

/// Packs what no earlier run did, and says how many one did; false where a stop was asked for. Collective.
bool pack_records(Communicator& control, const PackTask& task, const PackLimits& limits, PackResult& result) {
  PartsFound found;
  std::vector<PlacedEntry> entries;
  collectively(control, [&] {
    work_aside(control, [&] {
      found = read_parts(task.parts, task.options);
      entries = task.entries(found);
    });
  });
  const std::vector<std::int64_t> left = records_left(task, entries);
  result.resumed = task.records() - static_cast<std::int64_t>(left.size());
  if (!found.entries.empty())
    log_info("going on with what is in {}: {} images are done", task.parts.string(), result.resumed);
  control.barrier();  // all have read the parts before any adds one

  const auto ranks = static_cast<std::size_t>(control.size());
  const auto rank = static_cast<std::size_t>(control.rank());
  const std::vector<std::int64_t> mine(left.begin() + static_cast<std::ptrdiff_t>(left.size() * rank / ranks),
                                       left.begin() + static_cast<std::ptrdiff_t>(left.size() * (rank + 1) / ranks));
  std::unique_ptr<PartWriter> writer;
  collectively(control, [&] {
    if (!mine.empty())
      writer = std::make_unique<PartWriter>(task.parts, found.next_part + control.rank(), task.options);
  });
  Packing packing({task.sources, task.keys, task.settings, limits.bad_allowed});
  Work work;
  if (writer) packing.start(mine, *writer, work, limits.threads);
  return look_after(control, work, {"packed", result.resumed, task.records(), limits.bad_allowed});
}

/// Rank 0 makes the file of the parts; false where a stop was asked for. Collective.
bool assemble(Communicator& control, const PackTask& task, PackResult& result) {
  std::unique_ptr<PackAssembly> assembly;
  const auto on_rank_0 = [&](const std::function<void()>& work) {
    collectively(control, [&] {
      if (control.rank() == 0) work_aside(control, work);
    });
  };
  on_rank_0([&] {
    std::vector<PlacedEntry> entries = task.entries(read_parts(task.parts, task.options));
    if (static_cast<std::int64_t>(entries.size()) != task.records())
      throw InternalError(fmt::format("{} of {} records were packed", entries.size(), task.records()));
    result.images = task.records() - count_bad(entries);
    assembly = std::make_unique<PackAssembly>(PackAssembly::Plan{task.file, task.parts, task.sources, task.job},
                                              std::move(entries));
  });
  Work work;
  const std::int64_t before = assembly ? assembly->copied() : 0;
  if (before > 0) log_info("{} images were assembled before", before);
  if (assembly) work.start([&] { assembly->copy(work.done, [&] { return work.stopping(); }); }, 1);
  if (!look_after(control, work, {"assembled", before, task.records(), 0})) return false;
  on_rank_0([&] { assembly->publish(); });
  return true;
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
  const PackSettings settings = parse_settings(line);
  const auto control = make_control_communicator(line.training, session);
  const Machine machine = choose_machine(line.training, session, *control);
  const PackLimits limits{line.training.given("loader-threads") ? machine.loader_threads : machine.threads,
                          line.training.integer("max-bad-records")};

  const Stopwatch watch;
  std::unique_ptr<PackTask> task;
  std::unique_ptr<RunDirectoryLock> lock;
  PackResult result;
  collectively(*control, [&] {
    work_aside(*control, [&] { task = std::make_unique<PackTask>(what->second[0], what->second[1], settings); });
  });
  collectively(*control, [&] {
    if (session.rank() == 0 && !line.has("overwrite"))
      work_aside(*control, [&] { result.images = find_finished(*task); });
  });
  if (control->any(result.images > 0)) {
    result.resumed = result.images;
    report(context, line, *task, result);
    return 0;
  }
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    create_parts(task->parts);
    lock = std::make_unique<RunDirectoryLock>(task->parts);
    if (line.has("overwrite")) empty_parts(task->parts);
  });
  const Stopwatch packing_watch;
  if (!pack_records(*control, *task, limits, result)) return stopped();
  result.packing_seconds = packing_watch.seconds();
  if (!assemble(*control, *task, result)) return stopped();
  collectively(*control, [&] {
    if (session.rank() != 0) return;
    work_aside(*control, [&] { remove_parts(task->parts, std::move(lock)); });
  });
  result.seconds = watch.seconds();
  log_info("packed {} images into {} in {:.1f} s", result.images, task->file.string(), result.seconds);
  report(context, line, *task, result);
  return 0;
}

}  // namespace credence
