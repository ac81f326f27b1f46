#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "credence/base/stopwatch.h"
#include "credence/training/train.h"

namespace credence {

/// Prints how training goes, on rank 0: one rewriting line on a terminal, otherwise a plain line every `log_every`
/// steps; the log file has the plain lines either way. Losses are averages since the last line, in nats per example.
class Progress {
 public:
  struct Options {
    std::string mode = "auto";  // auto | plain | none
    std::int64_t log_every = 100;
    std::int64_t batch = 1;
    std::int64_t dataset_size = 1;
    double epochs = 0.0;  // of the whole run
    bool classes = true;
    double first_seconds = 0.0;  // of the run, before this start
    bool quiet = false;          // not rank 0
  };
  explicit Progress(const Options& options);

  void operator()(const StepReport& report);
  /// Leaves the rewriting line.
  void finish();

 private:
  std::string line(const StepReport& report) const;
  void forget();

  Options options_;
  std::size_t columns_ = 0;  // of the terminal; 0: none
  bool line_open_ = false;
  Stopwatch since_shown_;
  // Since the last plain line.
  std::int64_t steps_ = 0;
  double elbo_ = 0.0, objective_ = 0.0, log_likelihood_ = 0.0, kl_ = 0.0, accuracy_ = 0.0;
  double data_ = 0.0, communication_ = 0.0, saving_ = 0.0;
  double first_seconds_;
  bool warm_ = false;
};

}  // namespace credence
