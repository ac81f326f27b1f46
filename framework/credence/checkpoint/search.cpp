#include "credence/checkpoint/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "credence/base/errors.h"
#include "credence/checkpoint/verified_file.h"

namespace credence {
namespace checkpoints {

std::optional<std::int64_t> step_of_name(const std::string& name) {
  constexpr std::string_view prefix = "checkpoint-";
  constexpr std::string_view suffix = ".h5";
  if (!name.starts_with(prefix) || !name.ends_with(suffix) || name.size() < prefix.size() + 8 + suffix.size()) {
    return std::nullopt;
  }
  const std::string_view digits =
      std::string_view(name).substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  std::int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc{} || end != digits.data() + digits.size() || step < 0) return std::nullopt;
  return checkpoint_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<Found> list_checkpoints(const std::filesystem::path& directory) {
  std::vector<Found> found;
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  if (error == std::errc::no_such_file_or_directory) return found;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    if (const auto step = step_of_name(entries->path().filename().string())) found.push_back({*step, entries->path()});
  }
  if (error) {
    throw StorageError(fmt::format("{}: cannot be listed: {}", directory.string(), error.message()));
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step > b.step; });
  return found;
}

bool is_intact(const std::filesystem::path& file) {
  try {
    const OpenedFile opened = open_for_reading(file);
    return content_matches(opened, check_user_block(opened));
  } catch (const Error&) {
    return false;
  }
}

}  // namespace checkpoints

CheckpointSearch find_newest_checkpoint(const std::filesystem::path& directory) {
  CheckpointSearch search;
  for (const auto& found : checkpoints::list_checkpoints(directory)) search.files.push_back(found.file);
  for (const auto& file : search.files) {
    try {
      search.newest = std::make_unique<Checkpoint>(file);
      break;
    } catch (const Error& error) {
      search.unusable.emplace_back(file, error.what());
    }
  }
  return search;
}

std::vector<std::string> verify_checkpoint(const std::filesystem::path& file) {
  using namespace checkpoints;
  std::vector<std::string> findings;
  const auto note = [&](auto&& examine) {
    try {
      examine();
    } catch (const Error& error) {
      findings.emplace_back(error.what());
    }
  };
  OpenedFile opened;
  note([&] { opened = open_for_reading(file); });
  if (!opened.descriptor) return findings;
  note([&] {
    if (!content_matches(opened, check_user_block(opened))) {
      findings.push_back(fmt::format("{}: its content does not match its digest", file.string()));
    }
  });
  if (opened.bytes < kUserBlockBytes) return findings;
  note([&] {
    for (const std::string& name : damaged_arrays(opened, inspect(opened))) {
      findings.push_back(fmt::format("{}: '{}' does not match its digest", file.string(), name));
    }
  });
  return findings;
}

}  // namespace credence
