#pragma once

#include <filesystem>

#include "credence/base/hdf5.h"
#include "credence/checkpoint/table.h"

namespace credence::checkpoints {

/// File access for a file named /proc/self/fd/N. HDF5's default driver asks for the real path of a link, which a memory
/// file does not have.
hdf5::Handle descriptor_access(const hdf5::Context& context);

/// Walks the HDF5 file that `fd` is open on, in this process. Reads structure, attributes and offsets, no array.
/// DataError for anything the format does not have: soft and external links, external storage, virtual, chunked or
/// filtered datasets, other types. Only for memory files of this process: HDF5 can crash on a file made
/// to crash it, and at exit on one whose disk failed.
Table inspect_here(const std::filesystem::path& file, int fd);

/// The same in a child process with little time and memory, whose death is a DataError here.
Table inspect_in_child(const std::filesystem::path& file, int fd);

}  // namespace credence::checkpoints
