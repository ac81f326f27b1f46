#include "credence/networks/layout.h"

namespace credence {

std::int64_t Layout::parameters() const {
  std::int64_t total = 0;
  for (const Slot& slot : slots) total += slot.count;
  return total;
}

std::vector<std::int64_t> Layout::offsets() const {
  std::vector<std::int64_t> result;
  result.reserve(slots.size());
  for (const Slot& slot : slots) result.push_back(slot.offset);
  return result;
}

}  // namespace credence
