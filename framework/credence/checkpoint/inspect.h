#pragma once

#include <filesystem>

#include "credence/checkpoint/table.h"

namespace credence::checkpoints {

/// Walks the HDF5 file that `fd` is open on, in this process. Reads structure, attributes and offsets, no array.
/// DataError for anything the format does not have: soft and external links, external storage, virtual, chunked or
/// filtered datasets, other types. Only for files that this process wrote: HDF5 can crash on a file made to crash it.
Table inspect_here(const std::filesystem::path& file, int fd);

/// The same in a child process with little time and memory, whose death is a DataError here.
Table inspect_in_child(const std::filesystem::path& file, int fd);

}  // namespace credence::checkpoints
