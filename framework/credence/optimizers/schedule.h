#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace credence {

struct ConstantSchedule {};
/// Half a cosine from 1 to 0 over the run (Loshchilov and Hutter 2017, without restarts).
struct CosineSchedule {};
/// The rate is multiplied by `factor` at each of the given epochs.
struct StepSchedule {
  std::vector<double> epochs;
  double factor = 0.1;
};
using Schedule = std::variant<ConstantSchedule, CosineSchedule, StepSchedule>;

/// constant | cosine | step:EPOCH,EPOCH,...[:FACTOR]
Schedule parse_schedule(const std::string& spec);

/// Where in a run the factor of the learning rate is asked for.
struct ScheduleTime {
  std::int64_t step = 0;          // from 0
  std::int64_t total_steps = 1;   // of the run
  double epoch = 0.0;             // completed before this step
  std::int64_t warmup_steps = 0;  // linear rise from 1 / warmup_steps
};

/// Factor in [0, 1] on the learning rate. Cosine: 1 at the first step after warm-up, towards 0 after the last.
double learning_rate_factor(const Schedule& schedule, const ScheduleTime& time);

}  // namespace credence
