// The GPU's instructions as functions: everything that needs PTX or an intrinsic stands here, and only here.
//
// "sm_NN" behind a description is the lowest compute capability that has it; no remark means sm_75. Below that the
// function compiles and traps. "Warp-wide" functions are called by all 32 lanes of a warp together.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/dtype.h"
#include "common/macros.h"

namespace rnnkern::cuda {

// The compute capability that this pass compiles for; 0 in the host's, which generates no device code.
#if defined(__CUDA_ARCH__)
inline constexpr int kCapability = __CUDA_ARCH__ / 10;
#else
inline constexpr int kCapability = 0;
#endif

inline constexpr unsigned kAllLanes = 0xffffffffu;

// The address within the window of shared memory, of this block or of a peer.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ size_t global_address(const void* pointer) { return __cvta_generic_to_global(pointer); }

// The value, which the compiler takes for another at every call.
__device__ __forceinline__ uint32_t opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// a / b within a unit in the last place, for b between 1 and 2^126 in magnitude, and 0 for a larger one: without the
// branches of a division that is right for every b. NaN where either is.
RNNKERN_HD float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  const float quotient = a * inverse, rest = fmaf(-b, quotient, a), better = fmaf(rest, inverse, quotient);
  return rest == rest ? better : quotient;
#else
  return a / b;
#endif
}

RNNKERN_HD double divide(double a, double b) { return a / b; }

// ---- Conversions

RNNKERN_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

RNNKERN_HD float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

__device__ __forceinline__ float widen(float value) { return value; }

__device__ __forceinline__ double widen(double value) { return value; }

__device__ __forceinline__ float widen(Half value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

__device__ __forceinline__ float widen(BFloat16 value) { return __uint_as_float(uint32_t(value.bits) << 16); }

// Rounds to nearest, ties to even; what is too large becomes infinite, NaN stays NaN.
template <class S>
__device__ __forceinline__ S narrow(std::conditional_t<std::is_same_v<S, double>, double, float> value) {
  if constexpr (std::is_same_v<S, Half>) {
    Half half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
  } else if constexpr (std::is_same_v<S, BFloat16> && kCapability >= 80) {
    BFloat16 brain;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(brain.bits) : "f"(value));
    return brain;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    const uint32_t bits = __float_as_uint(value);
    const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return BFloat16{static_cast<uint16_t>(value == value ? rounded >> 16 : 0x7fffu)};
  } else {
    return value;
  }
}

// The nearest TF32 number, ties away from zero. sm_80
__device__ __forceinline__ float round_to_tf32(float value) {
  uint32_t bits = 0;
  if constexpr (kCapability >= 80) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  } else {
    __trap();
  }
  return __uint_as_float(bits);
}

// ---- Block and warp

// The block's dynamic shared memory from byte_offset on; its start is aligned to 128 bytes.
template <class T>
__device__ __forceinline__ T* shared_memory(size_t byte_offset = 0) {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory + byte_offset);
}

// A barrier of all threads of the block, which orders their memory accesses. No thread may have left the kernel.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// sync_block(), and whether any thread passed true.
__device__ __forceinline__ bool sync_block_any(bool value) { return __syncthreads_or(value) != 0; }

// A barrier of the warp's lanes, which orders their memory accesses.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// The value of another lane. V: float, double or a 32-bit integer. Warp-wide.
template <class V>
__device__ __forceinline__ V shuffle(V value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}

// The value of the lane `delta` higher; one's own where there is none. Warp-wide.
template <class V>
__device__ __forceinline__ V shuffle_down(V value, unsigned delta) {
  return __shfl_down_sync(kAllLanes, value, delta);
}

// The value of the lane whose number differs in the bits of `mask`. Warp-wide.
template <class V>
__device__ __forceinline__ V shuffle_xor(V value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}

// Ends the kernel with an error, which the host gets to see when it next waits for the device.
__device__ __forceinline__ void give_up() { __trap(); }

// Lets others run while this thread has nothing to do but ask again.
__device__ __forceinline__ void back_off(unsigned nanoseconds = 20) { __nanosleep(nanoseconds); }

// A clock for measurements that all multiprocessors share; its resolution may be as coarse as a microsecond.
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time)::"memory");
  return time;
}

// The multiprocessor's own cycles.
__device__ __forceinline__ uint64_t cycles() { return static_cast<uint64_t>(clock64()); }

// ---- Tensor cores
//
// sum += a * b over fragments of PTX's layout. With group = lane / 4 and quad = lane % 4, and 16-bit types two to a
// register, the lower column (of a) or row (of b) in the lower half:
//   sum[i]   row group + 8 * (i / 2), column 2 * quad + i % 2
//   a[i]     row group + 8 * (i % 2), 16-bit: columns 2 * quad + 8 * (i / 2) and the next; TF32: column quad + 4 * (i / 2)
//   b[i]     column group, 16-bit: rows 2 * quad + 8 * i and the next; TF32: row quad + 4 * i

// S: Half or BFloat16. Warp-wide. sm_80
template <class S>
__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kCapability < 80) {
    __trap();
  } else if constexpr (std::is_same_v<S, Half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<S, BFloat16>);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// Half. Warp-wide.
__device__ __forceinline__ void mma_m16n8k8_half(float (&sum)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

// TF32: the lower 13 bits of each operand are ignored. Warp-wide. sm_80
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kCapability >= 80) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    __trap();
  }
}

// Loads N = 1, 2 or 4 matrices of 8x8 16-bit elements from shared memory. Lane 8 * m + r passes the address of row r of
// matrix m, aligned to 16 bytes; for N < 4 the higher lanes pass any valid one. A lane receives of each matrix the
// columns 2 * (lane % 4) and the next of row lane / 4. Warp-wide.
template <int N>
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[N], const void* row) {
  const uint32_t address = shared_address(row);
  if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(fragment[0]) : "r"(address));
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(address));
  } else {
    static_assert(N == 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
  }
}

// The same of the transposed matrices: rows 2 * (lane % 4) and the next of column lane / 4. Warp-wide.
template <int N>
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[N], const void* row) {
  const uint32_t address = shared_address(row);
  if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(fragment[0]) : "r"(address));
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(address));
  } else {
    static_assert(N == 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
  }
}

// ---- Asynchronous copies of a thread

// Starts a copy of kBytes = 4, 8 or 16 from global to shared memory, both aligned to kBytes: `valid_bytes` of the
// source, then zeros. It arrives in wait_group. sm_80
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, unsigned valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kCapability < 80) {
    __trap();
  } else if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global_address(global)), "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(global_address(global)), "n"(kBytes), "r"(valid_bytes)
                 : "memory");
  }
}

// Makes a group of this thread's copies since the last one. sm_80
__device__ __forceinline__ void commit_group() {
  if constexpr (kCapability >= 80) {
    asm volatile("cp.async.commit_group;" ::: "memory");
  } else {
    __trap();
  }
}

// Waits until at most kPending of this thread's groups, the latest, have not arrived. Others see what has after a
// barrier. sm_80
template <int kPending>
__device__ __forceinline__ void wait_group() {
  if constexpr (kCapability >= 80) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  } else {
    __trap();
  }
}

// ---- Barriers in shared memory
//
// A phase of an Mbarrier ends when `arrivals` threads have arrived and all bytes expected in it have come; then the next
// begins. Phases are waited for by their parity: that of the first is 0.

struct Mbarrier {
  uint64_t opaque;
};

// By one thread; others may use it after fence_mbarrier_init and a barrier. sm_80
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
  if constexpr (kCapability >= 80) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
  } else {
    __trap();
  }
}

// Makes its memory ordinary memory again. sm_80
__device__ __forceinline__ void mbarrier_invalidate(Mbarrier* barrier) {
  if constexpr (kCapability >= 80) {
    asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
  } else {
    __trap();
  }
}

// Makes initialised barriers known to the cluster and to asynchronous copies. sm_90
__device__ __forceinline__ void fence_mbarrier_init() {
  if constexpr (kCapability >= 90) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  } else {
    __trap();
  }
}

// Arrives, and releases this thread's writes to the block. sm_80
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
  if constexpr (kCapability >= 80) {
    asm volatile(
        "{\n"
        "  .reg .b64 state;\n"
        "  mbarrier.arrive.shared.b64 state, [%0];\n"
        "}" ::"r"(shared_address(barrier))
        : "memory");
  } else {
    __trap();
  }
}

// Arrives at a barrier of any block of the cluster, and releases this thread's writes to the cluster. sm_90
__device__ __forceinline__ void mbarrier_arrive_cluster(Mbarrier* barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
  } else {
    __trap();
  }
}

// The same without releasing writes, which costs much less: enough to say that something has been read. sm_90
__device__ __forceinline__ void mbarrier_arrive_cluster_relaxed(Mbarrier* barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
  } else {
    __trap();
  }
}

// Expects that many more bytes in this phase, then arrives. sm_90
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* barrier, uint32_t bytes) {
  if constexpr (kCapability >= 90) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
  } else {
    __trap();
  }
}

// Whether the phase of this parity has ended, asked for some time; what was released to the block, and the bytes that
// came, can then be read. sm_90
__device__ __forceinline__ bool mbarrier_try_wait_parity(Mbarrier* barrier, uint32_t parity) {
  uint32_t ended = 0;
  if constexpr (kCapability >= 90) {
    asm volatile(
        "{\n"
        "  .reg .pred ended;\n"
        "  mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "  selp.u32 %0, 1, 0, ended;\n"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } else {
    __trap();
  }
  return ended != 0;
}

// The same for what was released to the cluster; the block loses what it has in its L1 cache. sm_90
__device__ __forceinline__ bool mbarrier_try_wait_parity_cluster(Mbarrier* barrier, uint32_t parity) {
  uint32_t ended = 0;
  if constexpr (kCapability >= 90) {
    asm volatile(
        "{\n"
        "  .reg .pred ended;\n"
        "  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
        "  selp.u32 %0, 1, 0, ended;\n"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } else {
    __trap();
  }
  return ended != 0;
}

inline constexpr uint32_t kWaitAttempts = 1u << 24;

// Waits for the end of the phase; false when that never comes. sm_90
__device__ __forceinline__ bool mbarrier_wait_parity(Mbarrier* barrier, uint32_t parity,
                                                     uint32_t attempts = kWaitAttempts) {
  RNNKERN_NO_UNROLL
  for (; attempts > 0; --attempts) {
    if (mbarrier_try_wait_parity(barrier, parity)) return true;
  }
  return false;
}

// The same for what was released to the cluster. sm_90
__device__ __forceinline__ bool mbarrier_wait_parity_cluster(Mbarrier* barrier, uint32_t parity,
                                                             uint32_t attempts = kWaitAttempts) {
  RNNKERN_NO_UNROLL
  for (; attempts > 0; --attempts) {
    if (mbarrier_try_wait_parity_cluster(barrier, parity)) return true;
  }
  return false;
}

// ---- Bulk copies and stores that complete on an Mbarrier
//
// Sizes are multiples of 16 bytes and addresses aligned to 16. "peer" pointers come from map_to_peer, those of the data
// and of the barrier from the same block; that block must not have left the kernel.

// Orders this thread's ordinary accesses, to shared and global memory, before bulk copies. sm_90
__device__ __forceinline__ void fence_proxy_async() {
  if constexpr (kCapability >= 90) {
    asm volatile("fence.proxy.async;" ::: "memory");
  } else {
    __trap();
  }
}

// The same for the block's own shared memory only. sm_90
__device__ __forceinline__ void fence_proxy_async_shared() {
  if constexpr (kCapability >= 90) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  } else {
    __trap();
  }
}

// Starts a copy from global memory to the block's shared memory. By one thread. sm_90
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global_address(global)), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
  } else {
    __trap();
  }
}

// Starts a copy from the block's shared memory to a peer's. By one thread. sm_90
__device__ __forceinline__ void copy_bulk_to_peer(void* peer, const void* shared, uint32_t bytes,
                                                  Mbarrier* peer_barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(peer)),
                 "r"(shared_address(shared)), "r"(bytes), "r"(shared_address(peer_barrier))
                 : "memory");
  } else {
    __trap();
  }
}

// Starts a store to a peer's shared memory. sm_90
__device__ __forceinline__ void store_async(uint32_t* peer, uint32_t value, Mbarrier* peer_barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(shared_address(peer)),
        "r"(value), "r"(shared_address(peer_barrier))
        : "memory");
  } else {
    __trap();
  }
}

// The same of 8 bytes. sm_90
__device__ __forceinline__ void store_async(uint64_t* peer, uint64_t value, Mbarrier* peer_barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(shared_address(peer)),
        "l"(value), "r"(shared_address(peer_barrier))
        : "memory");
  } else {
    __trap();
  }
}

// The same of 16 bytes. sm_90
__device__ __forceinline__ void store_async(uint4* peer, uint4 value, Mbarrier* peer_barrier) {
  if constexpr (kCapability >= 90) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     shared_address(peer)),
                 "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(shared_address(peer_barrier))
                 : "memory");
  } else {
    __trap();
  }
}

// ---- Global memory that blocks share

// Starts to bring what stands at the address into the L2 cache.
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global_address(address)));
}

// A load that what another thread released before its value stands behind.
__device__ __forceinline__ uint32_t load_acquire_gpu(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global_address(address)) : "memory");
  return value;
}

// A store that releases what this thread has written or seen.
__device__ __forceinline__ void store_release_gpu(uint32_t* address, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(global_address(address)), "r"(value) : "memory");
}

// An addition that releases, without waiting for the sum.
__device__ __forceinline__ void red_add_release_gpu(uint32_t* address, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(global_address(address)), "r"(value) : "memory");
}

// An addition that releases and acquires; returns the old value.
__device__ __forceinline__ uint32_t atomic_add_acq_rel_gpu(uint32_t* address, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(global_address(address)), "r"(value)
               : "memory");
  return old;
}

// A load from the memory that all blocks see, without order.
__device__ __forceinline__ uint32_t load_relaxed_gpu(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global_address(address)) : "memory");
  return value;
}

// The same of 16 bytes at once.
__device__ __forceinline__ uint4 load_relaxed_gpu(const uint4* address) {
  uint64_t low, high;
  asm volatile(
      "{\n"
      "  .reg .b128 value;\n"
      "  ld.relaxed.gpu.global.b128 value, [%2];\n"
      "  mov.b128 {%0, %1}, value;\n"
      "}"
      : "=l"(low), "=l"(high)
      : "l"(global_address(address))
      : "memory");
  return make_uint4(uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32));
}

// A store to the memory that all blocks see, without order.
__device__ __forceinline__ void store_relaxed_gpu(uint32_t* address, uint32_t value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(global_address(address)), "r"(value) : "memory");
}

// The same of 16 bytes at once.
__device__ __forceinline__ void store_relaxed_gpu(uint4* address, uint4 value) {
  const uint64_t low = value.x | uint64_t(value.y) << 32, high = value.z | uint64_t(value.w) << 32;
  asm volatile(
      "{\n"
      "  .reg .b128 value;\n"
      "  mov.b128 value, {%1, %2};\n"
      "  st.relaxed.gpu.global.b128 [%0], value;\n"
      "}" ::"l"(global_address(address)),
      "l"(low), "l"(high)
      : "memory");
}

// Orders this thread's accesses as other blocks see them.
__device__ __forceinline__ void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// ---- Clusters

// This block's number in its cluster. sm_90
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
  if constexpr (kCapability >= 90) {
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  } else {
    __trap();
  }
  return rank;
}

// Blocks in the cluster. sm_90
__device__ __forceinline__ unsigned cluster_size() {
  unsigned size = 0;
  if constexpr (kCapability >= 90) {
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  } else {
    __trap();
  }
  return size;
}

// The cluster's number along x in the grid. sm_90
__device__ __forceinline__ unsigned cluster_index() {
  unsigned index = 0;
  if constexpr (kCapability >= 90) {
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  } else {
    __trap();
  }
  return index;
}

// Arrives at the cluster's barrier, and releases this thread's writes. By all lanes of a warp together. sm_90
__device__ __forceinline__ void cluster_arrive() {
  if constexpr (kCapability >= 90) {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  } else {
    __trap();
  }
}

// The same without releasing writes, which costs much less. sm_90
__device__ __forceinline__ void cluster_arrive_relaxed() {
  if constexpr (kCapability >= 90) {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  } else {
    __trap();
  }
}

// Waits until all threads of the cluster have arrived. By all lanes of a warp together. sm_90
__device__ __forceinline__ void cluster_wait() {
  if constexpr (kCapability >= 90) {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  } else {
    __trap();
  }
}

// A barrier of all threads of the cluster. sm_90
__device__ __forceinline__ void sync_cluster() {
  cluster_arrive();
  cluster_wait();
}

// Where a peer block has what this block has at `shared`. A peer's memory can be used from a barrier of the cluster on,
// and until the peer leaves the kernel. sm_90
template <class T>
__device__ __forceinline__ T* map_to_peer(T* shared, unsigned rank) {
  uint64_t peer = 0;
  if constexpr (kCapability >= 90) {
    asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(shared), "r"(rank));
  } else {
    __trap();
  }
  return reinterpret_cast<T*>(peer);
}

}  // namespace rnnkern::cuda
