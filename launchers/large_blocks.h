#pragma once

namespace credence {

/// Makes LibTorch take the memory of large tensors on the CPU from regions that this process keeps, of huge pages where
/// the machine has them. A step asks for the same tensors as the one before: from the allocator of the C library each
/// of them would be new memory from the kernel, which clears every small page of it when it is first touched. Best fit,
/// neighbours that are free are joined; what is small goes to LibTorch's own allocator, and so does what the kernel
/// grants no region for. A forked child takes nothing from the regions. To be called once, before the first tensor.
void keep_large_tensors();

}  // namespace credence
