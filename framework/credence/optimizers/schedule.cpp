#include "credence/optimizers/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

double factor_at(const ConstantSchedule&, const ScheduleTime&) {
  return 1.0;
}

double factor_at(const CosineSchedule&, const ScheduleTime& time) {
  const double span = static_cast<double>(std::max<std::int64_t>(time.total_steps - time.warmup_steps, 1));
  const double done = static_cast<double>(time.step - time.warmup_steps) / span;
  return 0.5 * (1.0 + std::cos(std::numbers::pi * std::clamp(done, 0.0, 1.0)));
}

double factor_at(const StepSchedule& schedule, const ScheduleTime& time) {
  const auto passed =
      std::count_if(schedule.epochs.begin(), schedule.epochs.end(), [&](double epoch) { return time.epoch >= epoch; });
  return std::pow(schedule.factor, static_cast<double>(passed));
}

}  // namespace

Schedule parse_schedule(const std::string& spec) {
  const Spec parsed = parse_spec(spec);
  if (parsed.name == "constant" || parsed.name == "cosine") {
    require(parsed.arguments.empty(), "--lr-schedule {} takes no arguments, not '{}'", parsed.name, parsed.arguments);
    if (parsed.name == "constant") return ConstantSchedule{};
    return CosineSchedule{};
  }
  if (parsed.name == "step") {
    const std::vector<std::string> parts = split(parsed.arguments, ':');
    require(parts.size() == 1 || parts.size() == 2,
            "--lr-schedule step needs epochs and perhaps a factor, such as step:30,60,80:0.1, not '{}'", spec);
    StepSchedule schedule;
    for (const std::string& epoch : split(parts[0], ',')) {
      schedule.epochs.push_back(parse_number(epoch, "an epoch in --lr-schedule step:..."));
    }
    require(!schedule.epochs.empty() && *std::min_element(schedule.epochs.begin(), schedule.epochs.end()) > 0.0,
            "--lr-schedule step needs positive epochs, such as step:30,60,80:0.1, not '{}'", spec);
    if (parts.size() == 2) schedule.factor = parse_number(parts[1], "the factor in --lr-schedule step:...:FACTOR");
    require(schedule.factor > 0.0 && schedule.factor <= 1.0,
            "the factor in --lr-schedule step:...:FACTOR must be in (0, 1], not {}", schedule.factor);
    return schedule;
  }
  const std::vector<std::string> known = {"constant", "cosine", "step"};
  refuse_unknown("learning-rate schedule", parsed.name, known);
}

double learning_rate_factor(const Schedule& schedule, const ScheduleTime& time) {
  if (time.step < time.warmup_steps) {
    return static_cast<double>(time.step + 1) / static_cast<double>(time.warmup_steps);
  }
  return std::visit([&](const auto& kind) { return factor_at(kind, time); }, schedule);
}

}  // namespace credence
