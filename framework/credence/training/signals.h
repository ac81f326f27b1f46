#pragma once

namespace credence {

/// Makes SIGUSR2, SIGTERM and SIGINT ask for a stop at the end of the step: the handler only sets a flag. A second
/// SIGTERM or SIGINT more than a second after the first ends the process at once, by that signal: no exit code tells of
/// a checkpoint (the newest published one stands). Ignores what ignore_limit_signals() does.
void install_signal_handlers();

/// Ignores SIGXFSZ and SIGPIPE, so that the calls that met the limit report it.
void ignore_limit_signals();

/// Whether this process was asked to stop.
bool stop_requested();

}  // namespace credence
