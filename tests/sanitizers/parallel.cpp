// The threading seam over plain threads, whose every synchronisation ThreadSanitizer sees.
#include "cpu/parallel.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "pool.h"

namespace rnnkern {

int sanitizers::pool = 1;

namespace cpu {

int available_threads() { return sanitizers::pool; }

void run_team(int threads, const std::function<void(int rank, int size)>& body) {
  const int size = std::min(threads, sanitizers::pool);
  std::vector<std::thread> others;
  for (int rank = 1; rank < size; ++rank) others.emplace_back(body, rank, size);
  body(0, size);
  for (std::thread& other : others) other.join();
}

void Barrier::wait(int size) {
  const unsigned phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
  } else {
    while (phase_.load(std::memory_order_acquire) == phase) std::this_thread::yield();
  }
}

}  // namespace cpu
}  // namespace rnnkern
