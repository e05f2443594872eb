// Plain C++ for any machine. A vector is an array of four, which compilers map to whatever the baseline has.
#include "cpu/isa/prologue.h"

#include <cmath>
#include <type_traits>

#include "cpu/backend.h"

namespace rnnkern::cpu::scalar {

inline constexpr int kAccumulators = 12, kPanelVectors = 2;

template <class T>
struct Vec {
  using Element = T;
  static constexpr int kLanes = 4;
  T v[kLanes];

  Vec() = default;
  RNNKERN_HD explicit Vec(T value) : v{value, value, value, value} {}

  template <class F>
  static RNNKERN_HD Vec generate(const F& f) {
    Vec result;
    RNNKERN_UNROLL
    for (int i = 0; i < kLanes; ++i) result.v[i] = f(i);
    return result;
  }
  static RNNKERN_HD Vec load(const T* p) {
    return generate([&](int i) { return p[i]; });
  }
  static RNNKERN_HD Vec load(const T* p, int64_t lanes) {
    return generate([&](int i) { return i < lanes ? p[i] : T(0); });
  }
  RNNKERN_HD void store(T* p) const { store(p, kLanes); }
  RNNKERN_HD void store(T* p, int64_t lanes) const {
    RNNKERN_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      if (i < lanes) p[i] = v[i];
    }
  }
};

template <class T>
RNNKERN_HD Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return Vec<T>::generate([&](int i) { return a.v[i] + b.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return Vec<T>::generate([&](int i) { return a.v[i] - b.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return Vec<T>::generate([&](int i) { return a.v[i] * b.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return Vec<T>::generate([&](int i) { return a.v[i] / b.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> operator-(Vec<T> a) {
  return Vec<T>::generate([&](int i) { return -a.v[i]; });
}
// Rounds twice: the baseline has no fused instruction, and a library call for it would be far slower.
template <class T>
RNNKERN_HD Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return Vec<T>::generate([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> at_least(Vec<T> low, Vec<T> x) {
  return Vec<T>::generate([&](int i) { return x.v[i] < low.v[i] ? low.v[i] : x.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> at_most(Vec<T> high, Vec<T> x) {
  return Vec<T>::generate([&](int i) { return x.v[i] > high.v[i] ? high.v[i] : x.v[i]; });
}
template <class T>
RNNKERN_HD Vec<T> round(Vec<T> x) {
  return Vec<T>::generate([&](int i) { return std::nearbyint(x.v[i]); });
}
template <class T>
RNNKERN_HD Vec<T> pow2(Vec<T> n) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kMantissaBits = sizeof(T) == 4 ? 23 : 52;
  constexpr Bits kBias = sizeof(T) == 4 ? 127 : 1023;
  return Vec<T>::generate([&](int i) {
    const T exponent = n.v[i] == n.v[i] ? n.v[i] : T(0);  // the conversion of a NaN would be undefined
    const Bits bits = (static_cast<Bits>(exponent) + kBias) << kMantissaBits;
    T result;
    std::memcpy(&result, &bits, sizeof(T));
    return result;
  });
}
template <class T>
RNNKERN_HD Vec<T> zero_where_le0(Vec<T> d, Vec<T> y) {
  return Vec<T>::generate([&](int i) { return y.v[i] <= T(0) ? T(0) : d.v[i]; });
}
template <class T>
RNNKERN_HD T reduce_add(Vec<T> a) {
  return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
}
template <class T>
RNNKERN_HD void interleave(Vec<T>& a, Vec<T>& b) {
  const Vec<T> x = a, y = b;
  a = Vec<T>::generate([&](int i) { return (i % 2 == 0 ? x : y).v[i / 2]; });
  b = Vec<T>::generate([&](int i) { return (i % 2 == 0 ? x : y).v[2 + i / 2]; });
}

#include "cpu/recurrence.inl"

}  // namespace rnnkern::cpu::scalar

namespace rnnkern::cpu {

constexpr Backend kScalar = scalar::make_backend("scalar", [] { return true; });

}  // namespace rnnkern::cpu
