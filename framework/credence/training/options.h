#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace credence {

/// What may happen to an option when a run is resumed.
enum class OptionKind : std::uint8_t {
  identity,  // recorded; a given value must match
  horizon,   // how long to train: may change, re-plans the schedule
  setting,   // what to write and keep, what to put up with: recorded, may change
  machine    // where to run, and what of it to show now: neither recorded nor compared
};

/// One option of `credence train`: the single source of names, defaults, help and recording.
struct OptionInfo {
  std::string_view name;
  std::string_view fallback;  // default; empty: decided at the start (documented in help)
  OptionKind kind;
  bool repeated;  // may be given several times (rules)
  std::string_view help;
};
std::span<const OptionInfo> training_options();
const OptionInfo* find_option(std::string_view name);

/// Option values by name, as text. Repeated options keep their order.
class OptionValues {
 public:
  void set(const std::string& name, std::vector<std::string> values) { values_[name] = std::move(values); }
  bool given(const std::string& name) const { return values_.contains(name); }
  /// The value given, else the default.
  std::string text(const std::string& name) const;
  std::vector<std::string> texts(const std::string& name) const;
  double number(const std::string& name) const;         // UserError unless a finite number
  std::int64_t integer(const std::string& name) const;  // UserError unless a whole number
  const std::map<std::string, std::vector<std::string>>& all() const noexcept { return values_; }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

/// UserError names the first number given that lies outside what its option allows, whatever else is given.
void require_in_range(const OptionValues& given);

/// Resolved options as INI text. Without machine options: what a checkpoint records.
std::string to_ini(const OptionValues& values, bool machine_options);
/// One "name = value" line.
struct IniLine {
  int number = 0;  // from 1
  std::string name;
  std::string value;
};
/// All of them, whatever their names. UserError names a line of another form.
std::vector<IniLine> read_ini(const std::string& text, const std::string& origin);
/// Reads what to_ini wrote (and config files): "name = value" lines, '#' comments. UserError names file line and
/// option.
OptionValues from_ini(const std::string& text, const std::string& origin);

/// Names of the identity options whose values mean something else in `b` than in `a`.
std::vector<std::string> changed_options(const OptionValues& a, const OptionValues& b);

/// The recorded values with what was given now laid over them. UserError names every identity option that differs.
OptionValues merge_for_resume(const OptionValues& recorded, const OptionValues& given);

}  // namespace credence
