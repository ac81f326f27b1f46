#include "credence/prediction/blocks.h"

#include "credence/base/errors.h"

namespace credence {

BlockShare::BlockShare(std::int64_t example_count, std::int64_t block_size, const Communicator& communicator)
    : examples(example_count),
      block(block_size),
      blocks((example_count + block_size - 1) / block_size),
      first_block(blocks * communicator.rank() / communicator.size()),
      end_block(blocks * (communicator.rank() + 1) / communicator.size()) {}

std::vector<double> gather(Communicator& communicator, std::span<const double> mine, std::int64_t offset,
                           std::int64_t total) {
  ensure(offset + static_cast<std::int64_t>(mine.size()) <= total, "gathered values do not fit");
  std::vector<double> all(static_cast<std::size_t>(total));
  std::copy(mine.begin(), mine.end(), all.begin() + offset);
  if (communicator.size() > 1) {
    communicator.all_reduce({all.data(), total, DType::float64, Device::cpu}, Reduction::sum).wait();
  }
  return all;
}

}  // namespace credence
