// AVX2 and FMA: 16 registers of 8 floats or 4 doubles.
#include "common/macros.h"

#if RNNKERN_X86

#include "cpu/isa/prologue.h"

RNNKERN_TARGET_BEGIN("avx2,fma")

#include "cpu/backend.h"

namespace rnnkern::cpu::avx2 {

inline constexpr int kAccumulators = 12, kPanelVectors = 2;

template <class T>
struct Vec;

// Ones in the first `lanes` lanes.
RNNKERN_HD __m256i mask32(int64_t lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
RNNKERN_HD __m256i mask64(int64_t lanes) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}

template <>
struct Vec<float> {
  using Element = float;
  static constexpr int kLanes = 8;
  __m256 v;

  Vec() = default;
  RNNKERN_HD Vec(__m256 value) : v(value) {}
  RNNKERN_HD explicit Vec(float value) : v(_mm256_set1_ps(value)) {}
  static RNNKERN_HD Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static RNNKERN_HD Vec load(const float* p, int64_t lanes) { return _mm256_maskload_ps(p, mask32(lanes)); }
  RNNKERN_HD void store(float* p) const { _mm256_storeu_ps(p, v); }
  RNNKERN_HD void store(float* p, int64_t lanes) const { _mm256_maskstore_ps(p, mask32(lanes), v); }
};

RNNKERN_HD Vec<float> operator+(Vec<float> a, Vec<float> b) { return _mm256_add_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator-(Vec<float> a, Vec<float> b) { return _mm256_sub_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator*(Vec<float> a, Vec<float> b) { return _mm256_mul_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator/(Vec<float> a, Vec<float> b) { return _mm256_div_ps(a.v, b.v); }
RNNKERN_HD Vec<float> operator-(Vec<float> a) { return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)); }
RNNKERN_HD Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
RNNKERN_HD Vec<float> at_least(Vec<float> low, Vec<float> x) { return _mm256_max_ps(low.v, x.v); }
RNNKERN_HD Vec<float> at_most(Vec<float> high, Vec<float> x) { return _mm256_min_ps(high.v, x.v); }
RNNKERN_HD Vec<float> round(Vec<float> x) {
  return _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
RNNKERN_HD Vec<float> pow2(Vec<float> n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
RNNKERN_HD Vec<float> zero_where_le0(Vec<float> d, Vec<float> y) {
  return _mm256_and_ps(d.v, _mm256_cmp_ps(y.v, _mm256_setzero_ps(), _CMP_NLE_UQ));
}

RNNKERN_HD float reduce_add(Vec<float> a) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

RNNKERN_HD void interleave(Vec<float>& a, Vec<float>& b) {
  const __m256 even = _mm256_unpacklo_ps(a.v, b.v), odd = _mm256_unpackhi_ps(a.v, b.v);
  a.v = _mm256_permute2f128_ps(even, odd, 0x20);
  b.v = _mm256_permute2f128_ps(even, odd, 0x31);
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int kLanes = 4;
  __m256d v;

  Vec() = default;
  RNNKERN_HD Vec(__m256d value) : v(value) {}
  RNNKERN_HD explicit Vec(double value) : v(_mm256_set1_pd(value)) {}
  static RNNKERN_HD Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static RNNKERN_HD Vec load(const double* p, int64_t lanes) { return _mm256_maskload_pd(p, mask64(lanes)); }
  RNNKERN_HD void store(double* p) const { _mm256_storeu_pd(p, v); }
  RNNKERN_HD void store(double* p, int64_t lanes) const { _mm256_maskstore_pd(p, mask64(lanes), v); }
};

RNNKERN_HD Vec<double> operator+(Vec<double> a, Vec<double> b) { return _mm256_add_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator-(Vec<double> a, Vec<double> b) { return _mm256_sub_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator*(Vec<double> a, Vec<double> b) { return _mm256_mul_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator/(Vec<double> a, Vec<double> b) { return _mm256_div_pd(a.v, b.v); }
RNNKERN_HD Vec<double> operator-(Vec<double> a) { return _mm256_xor_pd(a.v, _mm256_set1_pd(-0.0)); }
RNNKERN_HD Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
RNNKERN_HD Vec<double> at_least(Vec<double> low, Vec<double> x) { return _mm256_max_pd(low.v, x.v); }
RNNKERN_HD Vec<double> at_most(Vec<double> high, Vec<double> x) { return _mm256_min_pd(high.v, x.v); }
RNNKERN_HD Vec<double> round(Vec<double> x) {
  return _mm256_round_pd(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// AVX2 cannot convert doubles to 64-bit integers; adding 1.5 * 2^52 leaves n in the low bits of the mantissa.
RNNKERN_HD Vec<double> pow2(Vec<double> n) {
  const __m256i bits = _mm256_castpd_si256(_mm256_add_pd(n.v, _mm256_set1_pd(0x1.8p52)));
  return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(bits, _mm256_set1_epi64x(1023)), 52));
}
RNNKERN_HD Vec<double> zero_where_le0(Vec<double> d, Vec<double> y) {
  return _mm256_and_pd(d.v, _mm256_cmp_pd(y.v, _mm256_setzero_pd(), _CMP_NLE_UQ));
}
RNNKERN_HD double reduce_add(Vec<double> a) {
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

RNNKERN_HD void interleave(Vec<double>& a, Vec<double>& b) {
  const __m256d even = _mm256_unpacklo_pd(a.v, b.v), odd = _mm256_unpackhi_pd(a.v, b.v);
  a.v = _mm256_permute2f128_pd(even, odd, 0x20);
  b.v = _mm256_permute2f128_pd(even, odd, 0x31);
}

#include "cpu/recurrence.inl"

}  // namespace rnnkern::cpu::avx2

RNNKERN_TARGET_END

namespace rnnkern::cpu {

constexpr Backend kAvx2 =
    avx2::make_backend("avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); });

}  // namespace rnnkern::cpu

#endif
