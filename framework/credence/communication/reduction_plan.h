#pragma once

#include <cstdint>

#include "credence/communication/communicator.h"

namespace credence {

/// First element of chunk `chunk` of `count` elements cut into `size` chunks; chunk == size: the end.
constexpr std::int64_t chunk_begin(std::int64_t count, int chunk, int size) {
  return count / size * chunk + (count % size) * chunk / size;
}

constexpr std::int64_t chunk_elements(std::int64_t count, int chunk, int size) {
  return chunk_begin(count, chunk + 1, size) - chunk_begin(count, chunk, size);
}

constexpr bool is_power_of_two(int size) {
  return size > 0 && (size & (size - 1)) == 0;
}

/// Whether an all-reduce sends the whole buffer to everybody at once: for scalars and flags latency is all that counts.
/// float32 carries gradients, whose traffic is 2(R-1)/R at any size.
inline bool exchanges_whole_buffer(const Buffer& buffer) {
  return buffer.dtype != DType::float32 && buffer.bytes() <= 256;
}

/// Bytes that `rank` hands to MPI in a reduce-scatter: every chunk but its own.
inline std::int64_t reduce_scatter_bytes(const Buffer& buffer, int rank, int size) {
  return (buffer.count - chunk_elements(buffer.count, rank, size)) * static_cast<std::int64_t>(size_of(buffer.dtype));
}

/// In an all-gather: its own chunk to everybody else.
inline std::int64_t all_gather_bytes(const Buffer& buffer, int rank, int size) {
  return chunk_elements(buffer.count, rank, size) * (size - 1) * static_cast<std::int64_t>(size_of(buffer.dtype));
}

inline std::int64_t all_reduce_bytes(const Buffer& buffer, int rank, int size) {
  if (exchanges_whole_buffer(buffer)) return static_cast<std::int64_t>(buffer.bytes()) * (size - 1);
  return reduce_scatter_bytes(buffer, rank, size) + all_gather_bytes(buffer, rank, size);
}

/// A broadcast runs down a binomial tree with the root at its top. `place` is (rank - root) mod size.
struct BroadcastTree {
  static constexpr int kNone = -1;
  int parent = kNone;     // place
  int children[32] = {};  // places, largest subtree first
  int number_of_children = 0;
};

inline BroadcastTree broadcast_tree(int place, int size) {
  BroadcastTree tree;
  int step = 1;
  while (step < size && (place & step) == 0) step <<= 1;
  if (place != 0) tree.parent = place - step;
  for (step >>= 1; step > 0; step >>= 1) {
    if (place + step < size) tree.children[tree.number_of_children++] = place + step;
  }
  return tree;
}

inline std::int64_t broadcast_bytes(const Buffer& buffer, int rank, int root, int size) {
  return static_cast<std::int64_t>(buffer.bytes()) *
         broadcast_tree((rank - root + size) % size, size).number_of_children;
}

}  // namespace credence
