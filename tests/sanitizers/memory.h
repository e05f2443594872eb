// Memory beyond whose ends nothing may read or write, and what the changed copies of the kernels call.
#pragma once

#include <cstddef>

namespace rnnkern::sanitizers {

// AddressSanitizer reports whoever touches these bytes.
void forbid(void* begin, size_t bytes);

// gcc's sanitizers do not see a masked vector's memory; these touch it in plain sight, and change nothing.
void mark_read(const void* begin, size_t bytes);
void mark_written(void* begin, size_t bytes);

// Bytes, NaN in any type, that end at a page which nothing can touch, not even a masked vector. Forbidden ones stand
// before and after.
class Memory {
 public:
  explicit Memory(size_t bytes);
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  void* data() const { return data_; }

 private:
  size_t mapped_;
  char* pages_;
  char* data_;
};

}  // namespace rnnkern::sanitizers
