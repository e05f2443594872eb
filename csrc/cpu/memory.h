// Memory for calls. Large blocks fresh from the system would cost a page fault for every 4 KiB of each call.
#pragma once

#include <cstddef>

namespace rnnkern::cpu {

// Uninitialised memory, aligned to 64 bytes. Up to 256 MiB of what was released is kept for later blocks. Throws
// std::runtime_error where there is not enough.
void* allocate(size_t bytes);
// bytes are those asked for.
void release(void* data, size_t bytes);

// A block for as long as this lives.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes), data_(allocate(bytes)) {}
  ~Scratch() { release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace rnnkern::cpu
