#pragma once

namespace credence {

/// Makes SIGUSR2, SIGTERM and SIGINT ask for a stop at the end of the step: the handler only sets a flag. A second
/// SIGTERM or SIGINT at least a second after the first leaves the process at once with exit code 75 (the newest
/// published checkpoint stands). SIGXFSZ and SIGPIPE are ignored, so that the calls that met the limit report it.
void install_signal_handlers();

/// Whether this process was asked to stop.
bool stop_requested();

}  // namespace credence
