// The one threading seam: a team of torch's intra-op threads that lives for a whole call.
#pragma once

#include <atomic>
#include <functional>

namespace rnnkern::cpu {

// Threads that a team may have here: torch.get_num_threads(), or 1 inside another parallel region, where a pool runs
// its ranges one after the other and a barrier would never be reached by all.
int available_threads();

// Runs body(rank, size) for every rank in [0, size) at the same time, with size <= threads as many as the pool gave.
// body may use Barriers of that size. It must not throw.
void run_team(int threads, const std::function<void(int rank, int size)>& body);

// Spins a little, then yields. Writes before wait() are visible to all members after it.
class alignas(64) Barrier {
 public:
  void wait(int size);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
};

}  // namespace rnnkern::cpu
