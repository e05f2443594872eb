// The memory that a call works in.
#pragma once

#include <cstddef>

namespace rnnkern::cpu {

// Uninitialised memory, aligned to 64 bytes, for as long as this lives. The thread keeps the largest it had, up to a
// limit, for its next call: large blocks fresh from the system would cost a page fault for every 4 KiB of each call.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace rnnkern::cpu
