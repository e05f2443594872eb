#include "cpu/scratch.h"

#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rnnkern::cpu {
namespace {

constexpr size_t kMostKept = 256 << 20;
constexpr size_t kHugePage = 2 << 20;  // of x86-64; elsewhere only an alignment

size_t alignment_of(size_t bytes) { return bytes < kHugePage ? 64 : kHugePage; }

void* allocate(size_t bytes) {
  void* data = ::operator new(bytes, std::align_val_t(alignment_of(bytes)));
#if defined(__linux__)
  // Packed weights are read at every step, by rows of pages. Where there are no huge pages, small ones do.
  if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

void release(void* data, size_t bytes) { ::operator delete(data, std::align_val_t(alignment_of(bytes))); }

struct Kept {
  void* data = nullptr;
  size_t bytes = 0;

  ~Kept() {
    if (data != nullptr) release(data, bytes);
  }
};

thread_local Kept kept;

}  // namespace

Scratch::Scratch(size_t bytes) : bytes_(std::exchange(kept.bytes, 0)), data_(std::exchange(kept.data, nullptr)) {
  if (bytes_ >= bytes && data_ != nullptr) return;
  if (data_ != nullptr) release(data_, bytes_);
  bytes_ = bytes;
  data_ = allocate(bytes);
}

Scratch::~Scratch() {
  if (bytes_ <= kMostKept && bytes_ >= kept.bytes) {
    std::swap(bytes_, kept.bytes);
    std::swap(data_, kept.data);
  }
  if (data_ != nullptr) release(data_, bytes_);
}

}  // namespace rnnkern::cpu
