#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace credence {

/// One completed step. Nats are for the whole dataset.
struct StepRecord {
  std::int64_t step = 0;  // completed steps, from 1
  double epoch = 0.0;     // completed epochs
  double elbo = 0.0;      // NaN where there is no bound
  double objective = 0.0;
  double expected_log_likelihood = 0.0;
  double kl = 0.0;
  double learning_rate = 0.0;
  double gradient_norm = 0.0;  // of the objective per example
  double accuracy = 0.0;       // fraction of the batch; 0 without classes
  double seconds = 0.0;        // end of the step since the run began, resumed parts added up
  double data_seconds = 0.0;   // rank 0's wait in this step for data, for other ranks and for saving
  double communication_seconds = 0.0;
  double checkpoint_seconds = 0.0;
};

/// Every step of a run once, however often it was resumed. Columns named as in the checkpoint: "history/elbo", ...;
/// what depends on the machine beside history/seconds is under "timing/".
class History {
 public:
  struct Column {
    const char* path;
    std::vector<double> values;
  };
  History();

  void append(const StepRecord& record);
  std::int64_t size() const { return static_cast<std::int64_t>(columns_.front().values.size()); }
  const std::vector<double>& column(const std::string& path) const;  // InternalError for an unknown one
  std::vector<Column>& columns() { return columns_; }
  const std::vector<Column>& columns() const { return columns_; }

 private:
  std::vector<Column> columns_;
};

}  // namespace credence
