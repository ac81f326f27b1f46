#include "credence/training/history.h"

#include "credence/base/errors.h"

namespace credence {
namespace {

struct Field {
  const char* path;
  double StepRecord::*value;
};

constexpr Field kFields[] = {{"history/epoch", &StepRecord::epoch},
                             {"history/elbo", &StepRecord::elbo},
                             {"history/objective", &StepRecord::objective},
                             {"history/expected_log_likelihood", &StepRecord::expected_log_likelihood},
                             {"history/kl", &StepRecord::kl},
                             {"history/learning_rate", &StepRecord::learning_rate},
                             {"history/gradient_norm", &StepRecord::gradient_norm},
                             {"history/accuracy", &StepRecord::accuracy},
                             {"history/seconds", &StepRecord::seconds},
                             {"timing/data_seconds", &StepRecord::data_seconds},
                             {"timing/communication_seconds", &StepRecord::communication_seconds},
                             {"timing/checkpoint_seconds", &StepRecord::checkpoint_seconds}};

}  // namespace

History::History() {
  columns_.push_back({"history/step", {}});
  for (const Field& field : kFields) columns_.push_back({field.path, {}});
}

void History::append(const StepRecord& record) {
  columns_.front().values.push_back(static_cast<double>(record.step));
  for (std::size_t i = 0; i < std::size(kFields); ++i) columns_[i + 1].values.push_back(record.*kFields[i].value);
}

const std::vector<double>& History::column(const std::string& path) const {
  for (const Column& column : columns_) {
    if (path == column.path) return column.values;
  }
  throw InternalError("the history has no column " + path);
}

}  // namespace credence
