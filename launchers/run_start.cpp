#include "run_start.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <set>

#include "assembly.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/checkpoint/search.h"

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
    if (fs::is_directory(*resume)) return *resume;
    const fs::path directory = fs::path(*resume).parent_path();
    return directory.empty() ? fs::path(".") : directory;
  }
  return fs::path("runs") /
         (name_for_directory(line.training.text("data")) + "-" + name_for_directory(line.training.text("network")));
}

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (!error) return;
  throw StorageError(fmt::format("cannot create {}: {}; give another --out", directory.string(), error.message()));
}

std::unique_ptr<RunDirectoryLock> lock_directory(const fs::path& directory) {
  make_directory(directory);
  try {
    return std::make_unique<RunDirectoryLock>(directory);
  } catch (const StorageError& error) {
    throw StorageError(fmt::format("{}; make {} writable, or give another --out", error.what(), directory.string()));
  }
}

/// log.txt or log-RANK.txt.
bool is_log_name(const std::string& name) {
  constexpr std::size_t around = 8;  // of "log-" and ".txt"
  if (name == "log.txt") return true;
  if (!name.starts_with("log-") || !name.ends_with(".txt") || name.size() <= around) return false;
  const std::string rank = name.substr(4, name.size() - around);
  return std::all_of(rank.begin(), rank.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// The files that a run writes into its directory, its lock apart.
std::vector<fs::path> files_of_run(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& checkpoint : checkpoints::list_checkpoints(directory)) files.push_back(checkpoint.file);
  for (const char* name : {"config.ini", "status.json"}) files.push_back(directory / name);
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (is_log_name(entries->path().filename().string())) files.push_back(entries->path());
  }
  if (error) throw StorageError(fmt::format("{} cannot be listed: {}", directory.string(), error.message()));
  return files;
}

void remove_run(const fs::path& directory) {
  for (const fs::path& file : files_of_run(directory)) {
    std::error_code error;
    fs::remove(file, error);
    if (error) throw StorageError(fmt::format("--overwrite: cannot remove {}: {}", file.string(), error.message()));
  }
}

std::unique_ptr<Checkpoint> open_named(const std::string& resume) {
  if (!fs::is_directory(resume)) return std::make_unique<Checkpoint>(resume);
  auto checkpoint = newest_checkpoint(resume);
  require(checkpoint != nullptr, "--resume {}: that directory holds no checkpoint", resume);
  return checkpoint;
}

/// UserError unless the directory's run, of which `newest` is, has the configuration and the data of `named`.
void require_same_run(const Checkpoint& named, const Checkpoint& newest, const fs::path& directory) {
  const OptionValues a = from_ini(named.config(), named.file().string());
  const OptionValues b = from_ini(newest.config(), newest.file().string());
  std::vector<std::string> differences;
  for (const std::string& name : changed_options(a, b)) {
    differences.push_back(
        fmt::format("--{} is {} and {}", name, fmt::join(a.texts(name), " "), fmt::join(b.texts(name), " ")));
  }
  const auto digest = [](const Checkpoint& checkpoint) {
    const auto found = checkpoint.attributes().find("dataset_digest");
    return found == checkpoint.attributes().end() ? Attribute{} : found->second;
  };
  if (digest(named) != digest(newest)) differences.emplace_back("the data have other content");
  require(differences.empty(),
          "--resume {} is of another run than the one in {}: {}; give another --out, or leave --resume out to continue "
          "the run there",
          named.file().string(), directory.string(), fmt::join(differences, "; "));
}

/// The checkpoint to continue from, or null for a new run. Rank 0.
std::unique_ptr<Checkpoint> find_start(const CommandLine& line, const fs::path& directory) {
  if (line.has("overwrite")) return nullptr;
  const auto resume = line.text("resume");
  auto newest = newest_checkpoint(directory);
  if (!resume) return newest;
  auto named = open_named(*resume);
  if (newest == nullptr) return named;
  require_same_run(*named, *newest, directory);
  const std::int64_t there = newest->integer("step");
  if (there < named->integer("step")) return named;
  if (there > named->integer("step")) {
    log_info("{} has gone on with the run of {} to step {}: continuing there; another --out would branch off",
             directory.string(), named->file().string(), there);
  }
  return newest;
}

/// Of every rank, in the run's directory. Collective.
void open_logs(const Start& start, const MpiSession& session, Communicator& control) {
  collectively(control,
               [&] { open_log({.rank = session.rank(), .size = session.size(), .directory = start.directory}); });
}

/// A new run writes its own config.ini, of which --config must not be the only copy: it may say more, such as `out`.
void require_other_config(const CommandLine& line, const fs::path& directory) {
  const auto config = line.text("config");
  std::error_code none;
  require(!config || !fs::equivalent(*config, directory / "config.ini", none),
          "--config {} is a file that a new run in {} would replace; copy it to another folder, or give another --out",
          config.value_or(""), directory.string());
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
  start.overwrite = line.has("overwrite");
  require(!start.overwrite || !line.text("resume"), "--overwrite starts anew and --resume continues: give one of them");
  std::string recorded;
  collectively(control, [&] {
    if (session.rank() != 0) return;
    start.lock = lock_directory(start.directory);
    work_aside(control, [&] { start.checkpoint = find_start(line, start.directory); });
    if (start.checkpoint) recorded = start.checkpoint->config();
    if (!start.checkpoint) require_other_config(line, start.directory);
  });
  recorded = control.broadcast_text(recorded, 0);
  start.resumed = !recorded.empty();
  if (!start.overwrite) open_logs(start, session, control);
  start.values =
      start.resumed ? merge_for_resume(from_ini(recorded, "the recorded configuration"), line.training) : line.training;
  return start;
}

void require_space(const RunState& state, const RunIdentity& identity, const Start& start) {
  std::uintmax_t bytes = 0;
  for (const ArrayView& array : take_snapshot(state, identity).contents.arrays) bytes += array.bytes();
  std::error_code error;
  const fs::space_info space = fs::space(start.directory, error);
  if (error) return;
  std::uintmax_t available = space.available;
  if (start.overwrite) {
    for (const fs::path& file : files_of_run(start.directory)) {
      if (const auto freed = fs::file_size(file, error); !error) available += freed;
    }
  }
  // Where as many are there as are kept, each new one that is whole makes room for the next.
  const auto there = static_cast<std::int64_t>(checkpoints::list_checkpoints(start.directory).size());
  const bool one = !start.overwrite && there >= std::max<std::int64_t>(start.values.integer("keep"), 2);
  const std::uintmax_t needed = one ? bytes : 2 * bytes;
  if (available >= needed) return;
  throw StorageError(
      fmt::format("{} has {:.1f} MB free, and {} of this run need{} {:.1f} MB; free some, or give "
                  "another --out",
                  start.directory.string(), static_cast<double>(available) / 1e6,
                  one ? "a checkpoint" : "two checkpoints", one ? "s" : "", 1e-6 * static_cast<double>(needed)));
}

void occupy_directory(const Start& start, const MpiSession& session, Communicator& control) {
  collectively(control, [&] {
    if (session.rank() != 0) return;
    if (start.overwrite) remove_run(start.directory);
    write_text_file(start.directory / "config.ini", to_ini(start.values, true));
  });
  set_status_directory(start.directory.string());
  if (start.overwrite) open_logs(start, session, control);
}

std::int64_t planned_steps(const OptionValues& values, const SamplingPlan& plan) {
  if (const std::string steps = values.text("steps"); !steps.empty()) {
    return parse_integer(steps, "--steps");
  }
  const double epochs = values.number("epochs");
  require(epochs > 0.0 && epochs < 1e9, "--epochs must be positive and below 1e9, not {}", epochs);
  const std::int64_t count = plan.steps(epochs);
  require(count <= std::numeric_limits<std::uint32_t>::max(), "--epochs {} are {} steps, more than the {} of a run",
          epochs, count, std::numeric_limits<std::uint32_t>::max());
  return count;
}

}  // namespace credence
