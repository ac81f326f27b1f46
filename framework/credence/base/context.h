#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "credence/base/errors.h"

namespace credence {

/// What this process is doing, for the line that tells of an error. Set by the thread that runs the command.
void set_phase(std::string_view phase);  // such as "reading of data"; without a step until set_step()
void set_step(std::int64_t step);
/// The text with " (in training, step 120)" at the end of its first line; as it is before the first set_phase().
std::string with_context(const std::string& text);

/// The rank that an error tells of.
struct Origin {
  int rank = 0;
  std::string host;
};
/// Throws the kind of error that `code` stands for, for which origin_of() knows the rank; agreed on by all ranks, and
/// its text has its context.
[[noreturn]] void throw_error_of(const Origin& origin, ExitCode code, const std::string& message);
/// Null: an error of this rank.
const Origin* origin_of(const Error& error);

}  // namespace credence
