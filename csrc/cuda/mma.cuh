// How the kernels multiply on tensor cores: what a register of an operand holds, the product of fragments, and the sum of
// what several warps have of a product.
#pragma once

#include <stdexcept>
#include <type_traits>

#include "cuda/elements.cuh"

namespace rnnkern::cuda {

template <class S>
struct Mma16 {
  using Element = S;
  static constexpr Arithmetic kArithmetic = std::is_same_v<S, Half> ? Arithmetic::kHalf : Arithmetic::kBFloat16;
  static constexpr int kPair = 2;  // elements of a register, the lower depth in the lower half
  static __device__ __forceinline__ uint32_t bits(S value) { return value.bits; }
  static __device__ __forceinline__ S round(S value) { return value; }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16<S>(sum, a, b);
  }
};

struct MmaTf32 {
  using Element = float;
  static constexpr Arithmetic kArithmetic = Arithmetic::kTf32;
  static constexpr int kPair = 1;
  static __device__ __forceinline__ uint32_t bits(float value) { return bits_of(value); }
  static __device__ __forceinline__ float round(float value) { return round_to_tf32(value); }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k8_tf32(sum, a, b);
  }
};

// body(Math{}) for what tensor cores multiply as it is.
template <class Body>
auto visit_tensor_cores(Arithmetic arithmetic, const Body& body) {
  switch (arithmetic) {
    case Arithmetic::kHalf:
      return body(Mma16<Half>{});
    case Arithmetic::kBFloat16:
      return body(Mma16<BFloat16>{});
    case Arithmetic::kTf32:
      return body(MmaTf32{});
    case Arithmetic::kFloat:
    case Arithmetic::kDouble:
      break;
  }
  throw std::logic_error("tensor cores do not multiply so");
}

// Each number is a TF32 number and a rest of half the digits, which is one but for its last bit. The product of two rests
// is left out: on average it is as small as a float32's own rounding. Tensor cores cut off what does not fit where they
// add, so that long sums are added outside. The rest of what is infinite is NaN.
struct MmaFloat {
  using Element = float;
  static constexpr Arithmetic kArithmetic = Arithmetic::kFloat;
  static constexpr int kPair = 1;
  static __device__ __forceinline__ uint32_t bits(float value) { return bits_of(value); }
  static __device__ __forceinline__ float round(float value) { return value; }

  template <int N>
  static __device__ __forceinline__ void split(const uint32_t (&value)[N], uint32_t (&high)[N], uint32_t (&rest)[N]) {
    RNNKERN_UNROLL
    for (int i = 0; i < N; ++i) {
      const uint32_t whole = opaque(value[i]);  // parts that were kept from step to step would take too many registers
      high[i] = (whole + 0x1000u) & 0xffffe000u;
      rest[i] = bits_of(float_of(whole) - float_of(high[i]));
    }
  }

  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t a_high[4], a_rest[4], b_high[2], b_rest[2];
    split(a, a_high, a_rest);
    split(b, b_high, b_rest);
    float product[4] = {};
    mma_m16n8k8_tf32(product, a_rest, b_high);
    mma_m16n8k8_tf32(product, a_high, b_rest);
    mma_m16n8k8_tf32(product, a_high, b_high);
    RNNKERN_UNROLL
    for (int i = 0; i < 4; ++i) sum[i] += product[i];
  }
};

// sum = what stands at `from` in each of `parts` parts of a product, at most kMost, which are `stride` floats apart; added
// in their order. Four are read at once: then `from` is aligned to 16 bytes, and `stride` a multiple of 4.
template <int kMost, int kCount>
__device__ __forceinline__ void add_up(float (&sum)[kCount], const float* from, int stride, int parts) {
  RNNKERN_UNROLL
  for (int i = 0; i < kCount; ++i) sum[i] = 0;
  RNNKERN_UNROLL
  for (int part = 0; part < kMost; ++part) {
    if (part >= parts) break;
    const float* const values = from + part * stride;
    if constexpr (kCount == 4) {
      const float4 four = *reinterpret_cast<const float4*>(values);
      sum[0] += four.x, sum[1] += four.y, sum[2] += four.z, sum[3] += four.w;
    } else {
      RNNKERN_UNROLL
      for (int i = 0; i < kCount; ++i) sum[i] += values[i];
    }
  }
}

}  // namespace rnnkern::cuda
