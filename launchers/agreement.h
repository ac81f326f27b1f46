#pragma once

#include <string>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"

namespace credence {

// What every rank reads for itself, and must be the same on all of them.

/// DataError names the first rank on which `content`, what it found in `what`, is not that of rank 0. Collective.
void require_same_everywhere(const std::string& what, const std::string& content, Communicator& control);

/// What of data the ranks compare.
std::string describe_content(const DataSource& source);
/// DataError names the first rank whose data are not those of rank 0. Collective.
void require_same_data(const DataSource& source, const std::string& spec, Communicator& control);

}  // namespace credence
