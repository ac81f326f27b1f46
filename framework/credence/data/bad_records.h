#pragma once

#include <cstdint>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"

namespace credence {

/// Leaves the images of `source` that cannot be decoded out of it, and returns how many: every image is read and
/// decoded once, dealt to the ranks and `threads` of each, so that the same ones are left out on any number of ranks
/// and at every start. Rank 0 names them in its log. Nothing is done where `allowed` is 0, or for data that are no
/// images. DataError that names them where there are more than `allowed`. Collective.
std::int64_t leave_out_bad_records(DataSource& source, std::int64_t allowed, int threads, Communicator& communicator);

}  // namespace credence
