// AVX-512 (F, BW, DQ, VL): 32 registers of 16 floats or 8 doubles.
#include "common/macros.h"

#if RNNKERN_X86

#include "cpu/isa/prologue.h"

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 warns of its own intrinsics' undefined lanes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

RNNKERN_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

#include "cpu/backend.h"

namespace rnnkern::cpu::avx512 {

inline constexpr int kAccumulators = 24, kPanelVectors = 4;

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Element = float;
  static constexpr int kLanes = 16;
  __m512 v;

  Vec() = default;
  RNNKERN_HD Vec(__m512 value) : v(value) {}
  RNNKERN_HD explicit Vec(float value) : v(_mm512_set1_ps(value)) {}
  static RNNKERN_HD __mmask16 mask(int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
  static RNNKERN_HD Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static RNNKERN_HD Vec load(const float* p, int64_t lanes) { return _mm512_maskz_loadu_ps(mask(lanes), p); }
  RNNKERN_HD void store(float* p) const { _mm512_storeu_ps(p, v); }
  RNNKERN_HD void store(float* p, int64_t lanes) const { _mm512_mask_storeu_ps(p, mask(lanes), v); }
};

RNNKERN_HD Vec<float> operator+(Vec<float> a, Vec<float> b) { return _mm512_add_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator-(Vec<float> a, Vec<float> b) { return _mm512_sub_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator*(Vec<float> a, Vec<float> b) { return _mm512_mul_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator/(Vec<float> a, Vec<float> b) { return _mm512_div_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator-(Vec<float> a) { return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f)); }
RNNKERN_HD Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
RNNKERN_HD Vec<float> at_least(Vec<float> low, Vec<float> x) { return _mm512_max_ps(low.v, x.v); }
RNNKERN_HD Vec<float> at_most(Vec<float> high, Vec<float> x) { return _mm512_min_ps(high.v, x.v); }
RNNKERN_HD Vec<float> round(Vec<float> x) { return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT); }
RNNKERN_HD Vec<float> pow2(Vec<float> n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n.v); }
RNNKERN_HD Vec<float> zero_where_le0(Vec<float> d, Vec<float> y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y.v, _mm512_setzero_ps(), _CMP_NLE_UQ), d.v);
}

RNNKERN_HD float reduce_add(Vec<float> a) { return _mm512_reduce_add_ps(a.v); }

RNNKERN_HD void interleave(Vec<float>& a, Vec<float>& b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  const __m512 first = _mm512_permutex2var_ps(a.v, low, b.v);
  b.v = _mm512_permutex2var_ps(a.v, high, b.v);
  a.v = first;
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int kLanes = 8;
  __m512d v;

  Vec() = default;
  RNNKERN_HD Vec(__m512d value) : v(value) {}
  RNNKERN_HD explicit Vec(double value) : v(_mm512_set1_pd(value)) {}
  static RNNKERN_HD __mmask8 mask(int64_t lanes) { return static_cast<__mmask8>((1u << lanes) - 1); }
  static RNNKERN_HD Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static RNNKERN_HD Vec load(const double* p, int64_t lanes) { return _mm512_maskz_loadu_pd(mask(lanes), p); }
  RNNKERN_HD void store(double* p) const { _mm512_storeu_pd(p, v); }
  RNNKERN_HD void store(double* p, int64_t lanes) const { _mm512_mask_storeu_pd(p, mask(lanes), v); }
};

RNNKERN_HD Vec<double> operator+(Vec<double> a, Vec<double> b) { return _mm512_add_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator-(Vec<double> a, Vec<double> b) { return _mm512_sub_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator*(Vec<double> a, Vec<double> b) { return _mm512_mul_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator/(Vec<double> a, Vec<double> b) { return _mm512_div_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator-(Vec<double> a) { return _mm512_xor_pd(a.v, _mm512_set1_pd(-0.0)); }
RNNKERN_HD Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
RNNKERN_HD Vec<double> at_least(Vec<double> low, Vec<double> x) { return _mm512_max_pd(low.v, x.v); }
RNNKERN_HD Vec<double> at_most(Vec<double> high, Vec<double> x) { return _mm512_min_pd(high.v, x.v); }
RNNKERN_HD Vec<double> round(Vec<double> x) { return _mm512_roundscale_pd(x.v, _MM_FROUND_TO_NEAREST_INT); }
RNNKERN_HD Vec<double> pow2(Vec<double> n) { return _mm512_scalef_pd(_mm512_set1_pd(1.0), n.v); }
RNNKERN_HD Vec<double> zero_where_le0(Vec<double> d, Vec<double> y) {
  return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(y.v, _mm512_setzero_pd(), _CMP_NLE_UQ), d.v);
}
RNNKERN_HD double reduce_add(Vec<double> a) { return _mm512_reduce_add_pd(a.v); }

RNNKERN_HD void interleave(Vec<double>& a, Vec<double>& b) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  const __m512d first = _mm512_permutex2var_pd(a.v, low, b.v);
  b.v = _mm512_permutex2var_pd(a.v, high, b.v);
  a.v = first;
}

#include "cpu/recurrence.inl"

}  // namespace rnnkern::cpu::avx512

RNNKERN_TARGET_END

namespace rnnkern::cpu {

constexpr Backend kAvx512 = avx512::make_backend("avx512", [] {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
});

}  // namespace rnnkern::cpu

#endif
