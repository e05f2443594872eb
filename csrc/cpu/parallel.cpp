#include "cpu/parallel.h"

#include <ATen/Config.h>
#include <ATen/Parallel.h>

#include <thread>

namespace rnnkern::cpu {
namespace {

constexpr int kSpins = 4000;  // some ten microseconds

template <class Done>
void spin_until(const Done& done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

int available_threads() {
  // torch's own pool shares its threads between callers: two teams could each hold some and wait for the rest.
  return AT_PARALLEL_OPENMP && !at::in_parallel_region() ? at::get_num_threads() : 1;
}

void run_team(int threads, const std::function<void(int rank, int size)>& body) {
  if (threads == 1) return body(0, 1);
  // The pool may be smaller than asked and then hands one thread several indices: the members are counted first.
  std::atomic<int> indices_taken{0}, members{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const int arrival = members.fetch_add(1);
    indices_taken.fetch_add(static_cast<int>(end - begin));
    spin_until([&] { return indices_taken.load() == threads; });
    const int size = members.load();
    // A full team keeps each share of the weights on the same core from call to call.
    body(size == threads ? static_cast<int>(begin) : arrival, size);
  });
}

void Barrier::wait(int size) {
  if (size == 1) return;
  const unsigned phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
  } else {
    spin_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
  }
}

}  // namespace rnnkern::cpu
