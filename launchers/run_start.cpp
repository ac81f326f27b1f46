#include "run_start.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "assembly.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

std::string name_for_directory(const std::string& spec) {
  std::string name = spec;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '.') c = '_';
  }
  return name;
}

fs::path directory_of(const CommandLine& line) {
  if (const auto out = line.text("out")) return *out;
  if (const auto resume = line.text("resume")) {
    return fs::is_directory(*resume) ? fs::path(*resume) : fs::path(*resume).parent_path();
  }
  return fs::path("runs") /
         (name_for_directory(line.training.text("data")) + "-" + name_for_directory(line.training.text("network")));
}

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw StorageError(fmt::format("cannot create {}: {}", directory.string(), error.message()));
}

void remove_run(const fs::path& directory) {
  for (const fs::path& file : find_newest_checkpoint(directory).files) fs::remove(file);
  for (const char* name : {"config.ini", "status.json", "log.txt"}) fs::remove(directory / name);
}

/// The checkpoint to continue from, or null for a new run. Rank 0.
std::unique_ptr<Checkpoint> find_start(const CommandLine& line, const fs::path& directory) {
  const auto resume = line.text("resume");
  if (line.has("overwrite")) {
    require(!resume, "--overwrite starts anew and --resume continues: give one of them");
    remove_run(directory);
    return nullptr;
  }
  if (!resume) return newest_checkpoint(directory);
  std::unique_ptr<Checkpoint> checkpoint;
  if (fs::is_directory(*resume)) {
    checkpoint = newest_checkpoint(*resume);
    require(checkpoint != nullptr, "--resume {}: that directory holds no checkpoint", *resume);
  } else {
    checkpoint = std::make_unique<Checkpoint>(*resume);
  }
  if (const auto newest = newest_checkpoint(directory)) {
    require(newest->integer("step") <= checkpoint->integer("step"),
            "--resume {} is at step {}, and {} already holds step {}; give another --out", *resume,
            checkpoint->integer("step"), directory.string(), newest->integer("step"));
  }
  return checkpoint;
}

}  // namespace

void require_same_options(const CommandLine& line, Communicator& control) {
  std::string mine;
  for (const auto& [name, values] : line.training.all()) mine += fmt::format("--{} {}\n", name, fmt::join(values, " "));
  for (const auto& [name, values] : line.extras) mine += fmt::format("--{} {}\n", name, fmt::join(values, " "));
  const auto all = control.gather_texts(mine);
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const auto lines_of = [](const std::string& text) {
      const auto parts = split(text, '\n');
      return std::set<std::string>(parts.begin(), parts.end());
    };
    const auto here = lines_of(all[0]);
    const auto there = lines_of(all[rank]);
    std::vector<std::string> different;
    std::set_symmetric_difference(here.begin(), here.end(), there.begin(), there.end(), std::back_inserter(different));
    throw UserError(fmt::format("ranks 0 and {} were started with different options: {}; give every rank the same",
                                rank, fmt::join(different, " | ")));
  }
}

Start begin_run(const CommandLine& line, MpiSession& session, Communicator& control) {
  Start start;
  start.directory = directory_of(line);
  std::string recorded;
  collectively(control, [&] {
    if (session.rank() != 0) return;
    make_directory(start.directory);
    start.lock = std::make_unique<RunDirectoryLock>(start.directory);
    start.checkpoint = find_start(line, start.directory);
    if (start.checkpoint) recorded = start.checkpoint->config();
  });
  recorded = control.broadcast_text(recorded, 0);
  start.resumed = !recorded.empty();
  set_status_directory(start.directory.string());
  open_log({.rank = session.rank(), .size = session.size(), .directory = start.directory});
  start.values =
      start.resumed ? merge_for_resume(from_ini(recorded, "the recorded configuration"), line.training) : line.training;
  return start;
}

void require_space(const RunState& state, const RunIdentity& identity, const fs::path& directory) {
  std::uintmax_t bytes = 0;
  for (const ArrayView& array : take_snapshot(state, identity).contents.arrays) bytes += array.bytes();
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (error || space.available >= 2 * bytes) return;
  throw StorageError(fmt::format(
      "{} has {:.1f} MB free, and two checkpoints of this run need {:.1f} MB; free some, or give another --out",
      directory.string(), static_cast<double>(space.available) / 1e6, 2e-6 * static_cast<double>(bytes)));
}

std::int64_t planned_steps(const OptionValues& values, const SamplingPlan& plan) {
  if (const std::string steps = values.text("steps"); !steps.empty()) {
    const std::int64_t count = parse_integer(steps, "--steps");
    require(count >= 1, "--steps must be at least 1, not {}", steps);
    return count;
  }
  const double epochs = values.number("epochs");
  require(epochs > 0.0 && epochs < 1e9, "--epochs must be positive, not {}", epochs);
  return plan.steps(epochs);
}

}  // namespace credence
