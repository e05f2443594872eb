#include "memory.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace rnnkern::sanitizers {

void forbid(void* begin, size_t bytes) { ASAN_POISON_MEMORY_REGION(begin, bytes); }

void mark_read(const void* begin, size_t bytes) {
  const volatile char* p = static_cast<const char*>(begin);
  for (size_t i = 0; i < bytes; ++i) static_cast<void>(p[i]);
}

void mark_written(void* begin, size_t bytes) {
  volatile char* p = static_cast<char*>(begin);
  for (size_t i = 0; i < bytes; ++i) p[i] = p[i];
}

Memory::Memory(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t usable = (bytes + page - 1) / page * page;
  mapped_ = usable + page;
  void* pages = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<char*>(pages);
  data_ = pages_ + usable - bytes;
  constexpr int kNaN = 0xff;
  std::memset(data_, kNaN, bytes);
  if (mprotect(pages_ + usable, page, PROT_NONE) != 0) throw std::bad_alloc();
  forbid(pages_, usable - bytes);
  forbid(pages_ + usable, page);
}

Memory::~Memory() {
  ASAN_UNPOISON_MEMORY_REGION(pages_, mapped_);
  munmap(pages_, mapped_);
}

}  // namespace rnnkern::sanitizers
