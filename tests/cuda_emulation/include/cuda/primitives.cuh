// csrc/cuda/primitives.cuh for a host without a GPU: the same functions, which say there what they do.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/dtype.h"
#include "emulation.h"

namespace rnnkern::cuda {

inline constexpr int kCapability = 90;

inline uint32_t opaque(uint32_t value) { return value; }

inline float divide(float a, float b) { return a / b; }

inline double divide(double a, double b) { return a / b; }

// ---- Conversions

inline uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }

inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }

inline float widen(float value) { return value; }

inline double widen(double value) { return value; }

inline float widen(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | magnitude << 13);  // infinite or NaN
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

inline float widen(BFloat16 value) { return std::bit_cast<float>(uint32_t(value.bits) << 16); }

inline uint32_t round_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;          // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and more
  if (magnitude >= 0x38800000u) return sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // An addition whose result counts in units of the least subnormal.
  return sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u);
}

inline uint32_t round_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return value == value ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fffu;
}

template <class S>
S narrow(std::conditional_t<std::is_same_v<S, double>, double, float> value) {
  if constexpr (std::is_same_v<S, Half>) {
    return Half{static_cast<uint16_t>(round_to_half(value))};
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    return BFloat16{static_cast<uint16_t>(round_to_bfloat16(value))};
  } else {
    return value;
  }
}

inline float round_to_tf32(float value) {
  emulation::require(80, "round_to_tf32");
  if (!(value - value == 0)) return value;  // infinite or NaN
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x1000u) & 0xffffe000u);
}

// ---- Block and warp

template <class T>
T* shared_memory(size_t byte_offset = 0) {
  return static_cast<T*>(emulation::shared_memory(byte_offset, alignof(T)));
}

inline void sync_block() { emulation::sync_block(); }

inline bool sync_block_any(bool value) { return emulation::sync_block_any(value); }

inline void sync_warp() { emulation::warp_collective("sync_warp", false, nullptr, nullptr); }

// What a lane passes to a shuffle. A lane that has left has garbage.
template <class V>
struct Shuffled {
  V value, result;
  unsigned source;

  static void exchange(void* const* operands) {
    for (int i = 0; i < 32; ++i) {
      if (operands[i] == nullptr) continue;
      auto& lane = *static_cast<Shuffled*>(operands[i]);
      const auto* source = static_cast<const Shuffled*>(operands[lane.source]);
      if (source != nullptr) lane.result = source->value;
    }
  }
};

template <class V>
V shuffle_from(const char* what, V value, unsigned source) {
  static_assert(sizeof(V) == 4 || std::is_same_v<V, double>);
  Shuffled<V> operand{value, V(0x7f7f7f7f), source};
  emulation::warp_collective(what, false, &operand, Shuffled<V>::exchange);
  return operand.result;
}

template <class V>
V shuffle(V value, int lane) {
  return shuffle_from("shuffle", value, static_cast<unsigned>(lane) % 32);
}

template <class V>
V shuffle_down(V value, unsigned delta) {
  const unsigned source = emulation::lane() + delta;
  return shuffle_from("shuffle_down", value, source < 32 ? source : emulation::lane());
}

template <class V>
V shuffle_xor(V value, int mask) {
  const unsigned source = emulation::lane() ^ static_cast<unsigned>(mask);
  return shuffle_from("shuffle_xor", value, source < 32 ? source : emulation::lane());
}

inline void give_up() { emulation::fail("the kernel gave up"); }

inline void back_off(unsigned = 20) { emulation::poll("back_off"); }

inline uint64_t nanoseconds() {
  return static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

inline uint64_t cycles() { return nanoseconds(); }

// ---- Tensor cores

inline float tf32_value(uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

// The two elements of a register.
template <class S>
float element(uint32_t pair, int i) {
  return widen(S{static_cast<uint16_t>(pair >> 16 * i)});
}

// The registers of a lane, and what the warp does with those of all lanes.
struct Fragments {
  float* sum;
  const uint32_t *a, *b;

  using Four = float __attribute__((vector_size(4 * sizeof(float))));

  template <int K>
  static void multiply(void* const* operands, const float (&a)[16][K], const float (&b)[K][8]) {
    float sums[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const float* sum = static_cast<const Fragments*>(operands[lane])->sum;
      for (int i = 0; i < 4; ++i) sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = sum[i];
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; column += 4) {
        Four sum, factors;
        std::memcpy(&sum, &sums[row][column], sizeof(Four));
        for (int k = 0; k < K; ++k) {
          std::memcpy(&factors, &b[k][column], sizeof(Four));
          sum += a[row][k] * factors;
        }
        std::memcpy(&sums[row][column], &sum, sizeof(Four));
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* sum = static_cast<Fragments*>(operands[lane])->sum;
      for (int i = 0; i < 4; ++i) sum[i] = sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
  }

  template <class S, int K>
  static void multiply_pairs(void* const* operands) {
    float a[16][K], b[K][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& own = *static_cast<const Fragments*>(operands[lane]);
      const int group = lane / 4, column = 2 * (lane % 4);
      for (int i = 0; i < K / 4; ++i) {
        for (int j = 0; j < 2; ++j) a[group + 8 * (i % 2)][column + 8 * (i / 2) + j] = element<S>(own.a[i], j);
      }
      for (int i = 0; i < K / 8; ++i) {
        for (int j = 0; j < 2; ++j) b[column + 8 * i + j][group] = element<S>(own.b[i], j);
      }
    }
    multiply(operands, a, b);
  }

  static void multiply_tf32(void* const* operands) {
    float a[16][8], b[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& own = *static_cast<const Fragments*>(operands[lane]);
      const int group = lane / 4, quad = lane % 4;
      for (int i = 0; i < 4; ++i) a[group + 8 * (i % 2)][quad + 4 * (i / 2)] = tf32_value(own.a[i]);
      for (int i = 0; i < 2; ++i) b[quad + 4 * i][group] = tf32_value(own.b[i]);
    }
    multiply(operands, a, b);
  }
};

template <class S>
void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static constexpr const char* kName = "mma_m16n8k16";
  emulation::require(80, kName);
  Fragments own{sum, a, b};
  emulation::warp_collective(kName, true, &own, Fragments::multiply_pairs<S, 16>);
}

inline void mma_m16n8k8_half(float (&sum)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  Fragments own{sum, a, b};
  emulation::warp_collective("mma_m16n8k8_half", true, &own, Fragments::multiply_pairs<Half, 8>);
}

inline void mma_m16n8k8_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static constexpr const char* kName = "mma_m16n8k8_tf32";
  emulation::require(80, kName);
  Fragments own{sum, a, b};
  emulation::warp_collective(kName, true, &own, Fragments::multiply_tf32);
}

// What a lane passes to load_matrices: where its fragment goes, and the row of a matrix.
struct MatrixRow {
  uint32_t* fragment;
  const uint16_t* elements;

  template <int N, bool kTransposed>
  static void load(void* const* operands) {
    const auto element = [&](int matrix, int row, int column) -> uint32_t {
      if (kTransposed) std::swap(row, column);
      return static_cast<const MatrixRow*>(operands[8 * matrix + row])->elements[column];
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      for (int m = 0; m < N; ++m) {
        static_cast<const MatrixRow*>(operands[lane])->fragment[m] =
            element(m, row, column) | element(m, row, column + 1) << 16;
      }
    }
  }
};

template <bool kTransposed, int N>
void load_matrices_as(const char* what, uint32_t (&fragment)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
  constexpr size_t kRowBytes = 16;
  emulation::require_aligned(row, kRowBytes, what);
  emulation::require_shared(row, kRowBytes, what);
  MatrixRow own{fragment, static_cast<const uint16_t*>(row)};
  emulation::warp_collective(what, true, &own, MatrixRow::load<N, kTransposed>);
}

template <int N>
void load_matrices(uint32_t (&fragment)[N], const void* row) {
  load_matrices_as<false>("load_matrices", fragment, row);
}

template <int N>
void load_matrices_transposed(uint32_t (&fragment)[N], const void* row) {
  load_matrices_as<true>("load_matrices_transposed", fragment, row);
}

// ---- Asynchronous copies of a thread

template <int kBytes>
void copy_async(void* shared, const void* global, unsigned valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulation::require(80, "copy_async");
  emulation::copy_async(shared, global, kBytes, valid_bytes);
}

inline void commit_group() {
  emulation::require(80, "commit_group");
  emulation::commit_group();
}

template <int kPending>
void wait_group() {
  emulation::require(80, "wait_group");
  emulation::wait_group(kPending);
}

// ---- Barriers in shared memory

struct Mbarrier {
  uint64_t opaque;
};

inline uint64_t* own_mbarrier(Mbarrier* barrier, int capability, const char* what) {
  emulation::require(capability, what);
  emulation::require_aligned(barrier, sizeof(Mbarrier), what);
  emulation::require_shared(barrier, sizeof(Mbarrier), what);
  return &barrier->opaque;
}

inline void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
  emulation::mbarrier_init(own_mbarrier(barrier, 80, "mbarrier_init"), arrivals);
}

inline void mbarrier_invalidate(Mbarrier* barrier) {
  emulation::mbarrier_invalidate(own_mbarrier(barrier, 80, "mbarrier_invalidate"));
}

inline void fence_mbarrier_init() { emulation::require(90, "fence_mbarrier_init"); }

inline void mbarrier_arrive(Mbarrier* barrier) {
  emulation::mbarrier_arrive(own_mbarrier(barrier, 80, "mbarrier_arrive"), 0);
}

inline void mbarrier_arrive_cluster(Mbarrier* barrier) {
  emulation::require(90, "mbarrier_arrive_cluster");
  emulation::mbarrier_arrive(&barrier->opaque, 0);
}

inline void mbarrier_arrive_cluster_relaxed(Mbarrier* barrier) { mbarrier_arrive_cluster(barrier); }

inline void mbarrier_arrive_expect_tx(Mbarrier* barrier, uint32_t bytes) {
  emulation::mbarrier_arrive(own_mbarrier(barrier, 90, "mbarrier_arrive_expect_tx"), bytes);
}

inline bool mbarrier_try_wait_parity(Mbarrier* barrier, uint32_t parity) {
  static constexpr const char* kName = "mbarrier_try_wait_parity";
  return emulation::mbarrier_try_wait(own_mbarrier(barrier, 90, kName), parity, kName);
}

inline bool mbarrier_try_wait_parity_cluster(Mbarrier* barrier, uint32_t parity) {
  return mbarrier_try_wait_parity(barrier, parity);
}

inline constexpr uint32_t kWaitAttempts = ~0u;  // the emulation gives up earlier

inline bool mbarrier_wait_parity(Mbarrier* barrier, uint32_t parity, uint32_t attempts = kWaitAttempts) {
  for (; attempts > 0; --attempts) {
    if (mbarrier_try_wait_parity(barrier, parity)) return true;
  }
  return false;
}

inline bool mbarrier_wait_parity_cluster(Mbarrier* barrier, uint32_t parity, uint32_t attempts = kWaitAttempts) {
  return mbarrier_wait_parity(barrier, parity, attempts);
}

// ---- Bulk copies and stores that complete on an Mbarrier

inline void fence_proxy_async() { emulation::require(90, "fence_proxy_async"); }

inline void fence_proxy_async_shared() { emulation::require(90, "fence_proxy_async_shared"); }

inline void copy_bulk(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier) {
  static constexpr const char* kName = "copy_bulk";
  emulation::require_shared(shared, bytes, kName);
  emulation::require_global(global, bytes, kName);
  emulation::copy_bulk(shared, global, bytes, own_mbarrier(barrier, 90, kName));
}

inline void copy_bulk_to_peer(void* peer, const void* shared, uint32_t bytes, Mbarrier* peer_barrier) {
  static constexpr const char* kName = "copy_bulk_to_peer";
  emulation::require(90, kName);
  emulation::require_shared(shared, bytes, kName);
  emulation::copy_bulk(peer, shared, bytes, &peer_barrier->opaque);
}

inline void store_async(uint32_t* peer, uint32_t value, Mbarrier* peer_barrier) {
  emulation::require(90, "store_async");
  emulation::store_async(peer, &value, sizeof(value), &peer_barrier->opaque);
}

inline void store_async(uint64_t* peer, uint64_t value, Mbarrier* peer_barrier) {
  emulation::require(90, "store_async");
  emulation::store_async(peer, &value, sizeof(value), &peer_barrier->opaque);
}

inline void store_async(uint4* peer, uint4 value, Mbarrier* peer_barrier) {
  emulation::require(90, "store_async");
  emulation::store_async(peer, &value, sizeof(value), &peer_barrier->opaque);
}

// ---- Memory that blocks share

template <class V>
V load_shared_by_blocks(const char* what, const V* address) {
  emulation::require_aligned(address, sizeof(V), what);
  emulation::poll(what);
  V value;
  std::memcpy(&value, address, sizeof(V));
  return value;
}

// Others may see the value before this thread does anything else.
template <class V>
void store_shared_by_blocks(const char* what, V* address, V value) {
  emulation::require_aligned(address, sizeof(V), what);
  if (std::memcmp(address, &value, sizeof(V)) != 0) emulation::progress();
  std::memcpy(address, &value, sizeof(V));
  emulation::poll(what);
}

inline uint32_t load_acquire_gpu(const uint32_t* address) { return load_shared_by_blocks("load_acquire_gpu", address); }

inline void store_release_gpu(uint32_t* address, uint32_t value) {
  store_shared_by_blocks("store_release_gpu", address, value);
}

inline void red_add_release_gpu(uint32_t* address, uint32_t value) {
  store_shared_by_blocks("red_add_release_gpu", address, *address + value);
}

inline uint32_t atomic_add_acq_rel_gpu(uint32_t* address, uint32_t value) {
  static constexpr const char* kName = "atomic_add_acq_rel_gpu";
  const uint32_t old = load_shared_by_blocks(kName, address);
  store_shared_by_blocks(kName, address, old + value);
  return old;
}

inline void prefetch_l2(const void*) {}

inline uint32_t load_relaxed_gpu(const uint32_t* address) { return load_shared_by_blocks("load_relaxed_gpu", address); }

inline uint4 load_relaxed_gpu(const uint4* address) { return load_shared_by_blocks("load_relaxed_gpu", address); }

inline void store_relaxed_gpu(uint32_t* address, uint32_t value) {
  store_shared_by_blocks("store_relaxed_gpu", address, value);
}

inline void store_relaxed_gpu(uint4* address, uint4 value) {
  store_shared_by_blocks("store_relaxed_gpu", address, value);
}

inline void fence_gpu() {}

// ---- Clusters

inline unsigned cluster_rank() {
  emulation::require(90, "cluster_rank");
  return emulation::cluster_rank();
}

inline unsigned cluster_size() {
  emulation::require(90, "cluster_size");
  return emulation::cluster_size();
}

inline unsigned cluster_index() {
  emulation::require(90, "cluster_index");
  return emulation::cluster_index();
}

inline void cluster_arrive() {
  emulation::require(90, "cluster_arrive");
  emulation::cluster_arrive();
}

inline void cluster_arrive_relaxed() { cluster_arrive(); }

inline void cluster_wait() {
  emulation::require(90, "cluster_wait");
  emulation::cluster_wait();
}

inline void sync_cluster() {
  cluster_arrive();
  cluster_wait();
}

template <class T>
T* map_to_peer(T* shared, unsigned rank) {
  emulation::require(90, "map_to_peer");
  return static_cast<T*>(emulation::map_to_peer(shared, rank));
}

}  // namespace rnnkern::cuda
