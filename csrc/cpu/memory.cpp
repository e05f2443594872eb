#include "cpu/memory.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rnnkern::cpu {
namespace {

constexpr size_t kMostKept = 256 << 20, kMostBlocks = 64;
constexpr size_t kHugePage = 2 << 20;  // of x86-64; elsewhere only a unit of sizes

struct Block {
  void* data;
  size_t bytes;
};

// Sizes come in few kinds, so that a block fits again.
size_t block_bytes(size_t bytes) {
  const size_t unit = bytes < kHugePage ? 4096 : kHugePage;
  return (bytes + unit - 1) / unit * unit;
}

std::align_val_t alignment_of(size_t bytes) { return std::align_val_t(bytes < kHugePage ? 64 : kHugePage); }

// No memory where there is none.
Block create(size_t bytes) {
  const Block block{::operator new(bytes, alignment_of(bytes), std::nothrow), bytes};
  if (block.data == nullptr) return block;
#if defined(__linux__)
  // Packed weights are read at every step, by rows of pages. Where there are no huge pages, small ones do.
  if (bytes >= kHugePage) madvise(block.data, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

void destroy(const Block& block) { ::operator delete(block.data, alignment_of(block.bytes)); }

// Blocks that are not in use, the least recently used first.
class Pool {
 public:
  Pool() { blocks_.reserve(kMostBlocks); }

  Block take(size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return create(bytes);
    const auto fits = [&](const Block& block) { return block.bytes == bytes; };
    const auto last = std::find_if(blocks_.rbegin(), blocks_.rend(), fits);
    if (last != blocks_.rend()) return remove(last.base() - 1);
    Block block = create(bytes);
    while (block.data == nullptr && !blocks_.empty()) {
      destroy(remove(blocks_.begin()));
      block = create(bytes);
    }
    return block;
  }

  void give(const Block& block) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || block.bytes > kMostKept) return destroy(block);
    while (bytes_ + block.bytes > kMostKept || blocks_.size() == kMostBlocks) destroy(remove(blocks_.begin()));
    blocks_.push_back(block);
    bytes_ += block.bytes;
  }

 private:
  Block remove(std::vector<Block>::iterator place) {
    const Block block = *place;
    blocks_.erase(place);
    bytes_ -= block.bytes;
    return block;
  }

  std::mutex mutex_;  // only ever tried: after a fork it may be locked for good
  std::vector<Block> blocks_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may be released after everything else.
Pool& pool() {
  static Pool& result = *new Pool;
  return result;
}

}  // namespace

void* allocate(size_t bytes) {
  void* data = pool().take(block_bytes(bytes)).data;
  if (data != nullptr) return data;
  throw std::runtime_error("not enough memory: you tried to allocate " + std::to_string(bytes) + " bytes");
}

void release(void* data, size_t bytes) { pool().give({data, block_bytes(bytes)}); }

}  // namespace rnnkern::cpu
