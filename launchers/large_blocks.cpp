#include "large_blocks.h"

#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

namespace credence {
namespace {

constexpr std::size_t kLeastBytes = std::size_t{128} << 10;  // from here on malloc may give memory back to the kernel
constexpr std::size_t kPage = 4096;
/// Beyond whole pages: neighbours of one size begin at different places in a page. Loops over several arrays would
/// otherwise wait for stores that have the last twelve bits of a load's address.
constexpr std::size_t kStagger = 9 * 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kRegionBytes = std::size_t{4} << 30;  // of addresses: memory only where they are touched

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

class LargeBlocks final : public c10::Allocator {
 public:
  explicit LargeBlocks(c10::Allocator& others) : others_(others) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    void* const block = bytes >= kLeastBytes && !in_child ? take(bytes) : nullptr;
    if (block == nullptr) return others_.allocate(bytes);
    report(block, static_cast<std::int64_t>(bytes));
    return {block, block, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  /// Of small blocks too.
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  static inline LargeBlocks* instance = nullptr;
  static inline std::atomic<bool> in_child = false;

 private:
  struct Taken {
    std::size_t reserved, asked;
  };

  static void give_back(void* block) {
    if (!in_child) instance->free(static_cast<std::byte*>(block));
  }

  /// Null where the kernel grants no more.
  void* take(std::size_t bytes) {
    const std::size_t needed = rounded_up(bytes, kPage) + kStagger;
    const std::lock_guard lock(mutex_);
    auto best = best_fit(needed);
    if (best == free_.end()) {
      if (!add_region(needed)) return nullptr;
      best = best_fit(needed);
    }
    const auto [begin, size] = *best;
    free_.erase(best);
    if (size > needed) free_.emplace(begin + needed, size - needed);
    taken_.emplace(begin, Taken{needed, bytes});
    return begin;
  }

  void free(std::byte* block) {
    std::size_t asked = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto entry = taken_.find(block);
      if (entry == taken_.end()) return others_.raw_deleter()(block);
      asked = entry->second.asked;
      auto place = free_.emplace(block, entry->second.reserved).first;
      taken_.erase(entry);
      if (const auto next = std::next(place); next != free_.end() && block + place->second == next->first) {
        place->second += next->second;
        free_.erase(next);
      }
      if (place != free_.begin()) {
        const auto before = std::prev(place);
        if (before->first + before->second == place->first) {
          before->second += place->second;
          free_.erase(place);
        }
      }
    }
    report(block, -static_cast<std::int64_t>(asked));
  }

  using Free = std::map<std::byte*, std::size_t>;  // by address: of equal sizes the lowest is taken

  Free::iterator best_fit(std::size_t needed) {
    auto best = free_.end();
    for (auto block = free_.begin(); block != free_.end(); ++block) {
      if (block->second >= needed && (best == free_.end() || block->second < best->second)) best = block;
    }
    return best;
  }

  bool add_region(std::size_t needed) {
    const std::size_t bytes = rounded_up(std::max(needed, kRegionBytes), kHugePage);
    void* const region =
        mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) return false;
    auto* const begin = reinterpret_cast<std::byte*>(rounded_up(reinterpret_cast<std::uintptr_t>(region), kHugePage));
    madvise(begin, bytes, MADV_HUGEPAGE);
    free_.emplace(begin, bytes);
    return true;
  }

  static void report(void* block, std::int64_t bytes) {
    if (c10::memoryProfilingEnabled()) {
      c10::reportMemoryUsageToProfiler(block, bytes, 0, 0, c10::Device(c10::DeviceType::CPU));
    }
  }

  c10::Allocator& others_;
  std::mutex mutex_;
  Free free_;
  std::unordered_map<std::byte*, Taken> taken_;
};

}  // namespace

void keep_large_tensors() {
  LargeBlocks::instance = new LargeBlocks(*c10::GetCPUAllocator());  // for ever: tensors may be freed at exit
  // Another thread may hold the lock at the fork, and limits on the child's memory would not see what is free here.
  pthread_atfork(nullptr, nullptr, [] { LargeBlocks::in_child = true; });
  c10::SetCPUAllocator(LargeBlocks::instance, /*priority=*/1);
}

}  // namespace credence
