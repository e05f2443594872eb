// A barrier of all blocks of a cooperative launch, or of some of them.
#pragma once

#include "common/macros.h"
#include "cuda/primitives.cuh"

namespace rnnkern::cuda {

// In global memory, zero before its first use. Launches that run to their end leave it ready for the next one.
struct GridBarrierState {
  uint32_t arrived;
  uint32_t timed_out;  // not zero: a wait was given up, and both must be zero before the next launch
};

// Every thread of the block holds one. The sum of what the blocks of a round add is 2^31, so that the top bit of
// `arrived` turns over when the last of them arrives, and turns back in the next round.
class GridBarrier {
 public:
  static constexpr uint32_t kAttempts = 1u << 24;  // some seconds

  // Exactly one of the `blocks` blocks is the leader.
  __device__ __forceinline__ GridBarrier(GridBarrierState* state, uint32_t blocks, bool leader,
                                         uint32_t attempts = kAttempts)
      : state_(state),
        share_(leader ? kTopBit - (blocks - 1) : 1),
        top_bit_(load_relaxed_gpu(&state->arrived) & kTopBit),
        attempts_(attempts) {}

  // What any thread of the blocks wrote before, all their threads can read behind. False when a block did not come in
  // time: then the kernel should end.
  __device__ __forceinline__ bool sync() {
    sync_block();
    const bool first = threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0;
    const bool failed = first && !arrive_and_wait();
    top_bit_ ^= kTopBit;
    return !sync_block_any(failed);
  }

 private:
  static constexpr uint32_t kTopBit = 0x80000000u;
  static constexpr uint32_t kAttemptsAtOnce = 1024;  // before it asks whether another block has given up

  __device__ __forceinline__ bool arrive_and_wait() {
    red_add_release_gpu(&state_->arrived, share_);
    RNNKERN_NO_UNROLL
    for (uint32_t attempt = 1; attempt <= attempts_; ++attempt) {
      if ((load_acquire_gpu(&state_->arrived) & kTopBit) != top_bit_) return true;
      if (attempt % kAttemptsAtOnce == 0 && load_relaxed_gpu(&state_->timed_out) != 0) return false;
    }
    store_relaxed_gpu(&state_->timed_out, 1);
    return false;
  }

  GridBarrierState* state_;
  uint32_t share_, top_bit_, attempts_;
};

}  // namespace rnnkern::cuda
