#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"

namespace credence {
namespace {

constexpr double kRedrawSeconds = 0.1;

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

/// Width of the terminal that stderr ends in, 0 where it is none. Under mpirun stderr is a pipe: launchers/mpirun says.
std::size_t terminal_columns() {
  if (isatty(STDERR_FILENO) != 0) {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  }
  const char* told = std::getenv("CREDENCE_TERMINAL_COLUMNS");
  return told != nullptr ? static_cast<std::size_t>(std::max(std::atoi(told), 0)) : 0;
}

}  // namespace

Progress::Progress(const Options& options) : options_(options), first_seconds_(options.first_seconds) {
  const std::vector<std::string> known = {"auto", "plain", "none"};
  if (std::find(known.begin(), known.end(), options.mode) == known.end()) {
    refuse_unknown("progress", options.mode, known);
  }
  require(options.log_every >= 1, "--log-every must be at least 1, not {}", options.log_every);
  if (options.mode == "auto") columns_ = terminal_columns();
  options_.quiet = options.quiet || options.mode == "none";
}

void Progress::forget() {
  steps_ = 0;
  elbo_ = objective_ = log_likelihood_ = kl_ = accuracy_ = data_ = communication_ = saving_ = 0.0;
}

void Progress::operator()(const StepReport& report) {
  const StepRecord& record = report.record;
  ++steps_;
  elbo_ += record.elbo;
  objective_ += record.objective;
  log_likelihood_ += record.expected_log_likelihood;
  kl_ += record.kl;
  accuracy_ += record.accuracy;
  data_ += record.data_seconds;
  communication_ += record.communication_seconds;
  saving_ += record.checkpoint_seconds;
  const bool due = record.step % options_.log_every == 0 || record.step == report.total_steps;
  const bool first = !std::exchange(warm_, true);
  if (first && !due) {  // the first step warms up: its time would tell nothing of those after it
    first_seconds_ = record.seconds;
    forget();
    return;
  }
  if (columns_ > 0 && !options_.quiet && (due || since_shown_.seconds() > kRedrawSeconds)) {
    since_shown_.restart();
    std::string text = line(report).substr(0, columns_ - 1);
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
    std::fflush(stderr);
    line_open_ = true;
  }
  if (!due) return;
  if (!options_.quiet && columns_ == 0) log_info("{}", line(report));
  if (!options_.quiet && columns_ > 0) log_to_file(line(report));
  first_seconds_ = record.seconds;
  forget();
}

void Progress::finish() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

std::string Progress::line(const StepReport& report) const {
  const StepRecord& record = report.record;
  const double steps = static_cast<double>(std::max<std::int64_t>(steps_, 1));
  const double examples = steps * static_cast<double>(options_.dataset_size);
  const double seconds = std::max(record.seconds - first_seconds_, 1e-9);
  const double step_seconds = seconds / steps;
  std::string text = fmt::format("step {}/{} | epoch {:.2f}/{:.4g} | ", record.step, report.total_steps, record.epoch,
                                 options_.epochs);
  if (std::isnan(elbo_)) {
    text += fmt::format("objective {:.3f} | nll {:.3f}", objective_ / examples, -log_likelihood_ / examples);
  } else {
    text += fmt::format("elbo {:.3f} | nll {:.3f} kl {:.3f}", elbo_ / examples, -log_likelihood_ / examples,
                        kl_ / examples);
  }
  if (options_.classes) text += fmt::format(" | acc {:.1f}", 100.0 * accuracy_ / steps);
  text += fmt::format(" | lr {:.1e} | {:.3g} ms | {:.0f} img/s | data {:.0f}% comm {:.0f}% save {:.1f}%",
                      record.learning_rate, 1e3 * step_seconds, static_cast<double>(options_.batch) / step_seconds,
                      100.0 * data_ / seconds, 100.0 * communication_ / seconds, 100.0 * saving_ / seconds);
  return text +
         fmt::format(" | {} left", clock_text(step_seconds * static_cast<double>(report.total_steps - record.step)));
}

}  // namespace credence
