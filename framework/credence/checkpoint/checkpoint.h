#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "credence/base/array.h"

namespace credence {

using Attribute = std::variant<std::int64_t, double, std::string>;

/// What goes into one checkpoint. `format`, `format_version` and `complete` are added by the writer; the others that
/// FORMAT.md requires (step, epoch, seed, shards, world_size, dataset_size) must be present (InternalError otherwise).
struct CheckpointContents {
  std::map<std::string, Attribute> attributes;
  std::string config;             // INI text, stored as /config
  std::vector<ArrayView> arrays;  // names are HDF5 paths: "posterior/fc1.weight/mean"
  std::map<std::string, std::map<std::string, Attribute>> array_attributes;  // attributes of arrays and groups, by path
};

/// "checkpoint-00002344.h5"
std::string checkpoint_name(std::int64_t step);

/// Writes under a temporary name in the same directory, syncs, re-reads and verifies, renames, syncs the directory.
/// StorageError names file and call; on any error nothing remains under the final name and the temporary is removed.
/// `check`, where given, is called before the renaming and may throw.
void write_checkpoint(const std::filesystem::path& file, const CheckpointContents& contents,
                      const std::function<void()>& check = {});

/// A verified checkpoint: construction compares every digest before HDF5 parses a byte, and refuses external storage,
/// links, virtual datasets and anything undeclared. DataError names the file and what is damaged.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& file);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  const std::filesystem::path& file() const;
  std::string digest() const;  // of its content, hexadecimal
  const std::map<std::string, Attribute>& attributes() const;
  std::int64_t integer(const std::string& attribute) const;  // DataError where missing or of another type
  const std::string& config() const;
  /// Attributes of the array or group at `path`; empty where there are none.
  const std::map<std::string, Attribute>& attributes_of(const std::string& path) const;

  /// Names, types and shapes of all arrays, sorted by name; `data` is null.
  const std::vector<ArrayView>& arrays() const;
  bool contains(const std::string& name) const;
  /// Fills `array.data` (type and shape must match: DataError names both).
  void read(const ArrayView& array) const;
  /// A whole array as the type it has (float32, float64, int64) converted to double.
  std::vector<double> read_doubles(const std::string& name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// What was found in a run directory.
struct CheckpointSearch {
  std::vector<std::filesystem::path> files;                             // newest first, by step in the name
  std::vector<std::pair<std::filesystem::path, std::string>> unusable;  // newer ones that were skipped, and why
  std::unique_ptr<Checkpoint> newest;                                   // newest good one, or null
};

/// Looks for the newest good checkpoint. Throws nothing for damaged files: the caller decides (all damaged: DataError).
CheckpointSearch find_newest_checkpoint(const std::filesystem::path& directory);

/// One line per finding of a full verification, for `credence inspect --verify`; empty when the file is sound.
/// Names the damaged tensors where the file's own digests allow it.
std::vector<std::string> verify_checkpoint(const std::filesystem::path& file);

}  // namespace credence
