// The value type V of a cell on a GPU: one number. It divides by nothing less than 1.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/macros.h"
#include "cuda/primitives.cuh"

namespace rnnkern::cuda {

template <class T>
struct Scalar {
  using Element = T;
  T value;

  Scalar() = default;
  RNNKERN_HD explicit Scalar(T initial) : value(initial) {}
};

template <class T>
RNNKERN_HD Scalar<T> operator+(Scalar<T> a, Scalar<T> b) {
  return Scalar<T>(a.value + b.value);
}
template <class T>
RNNKERN_HD Scalar<T> operator-(Scalar<T> a, Scalar<T> b) {
  return Scalar<T>(a.value - b.value);
}
template <class T>
RNNKERN_HD Scalar<T> operator*(Scalar<T> a, Scalar<T> b) {
  return Scalar<T>(a.value * b.value);
}
template <class T>
RNNKERN_HD Scalar<T> operator/(Scalar<T> a, Scalar<T> b) {
  return Scalar<T>(divide(a.value, b.value));
}
template <class T>
RNNKERN_HD Scalar<T> operator-(Scalar<T> a) {
  return Scalar<T>(-a.value);
}
template <class T>
RNNKERN_HD Scalar<T> fma(Scalar<T> a, Scalar<T> b, Scalar<T> c) {
  return Scalar<T>(std::fma(a.value, b.value, c.value));
}
template <class T>
RNNKERN_HD Scalar<T> at_least(Scalar<T> low, Scalar<T> x) {
  return x.value < low.value ? low : x;
}
template <class T>
RNNKERN_HD Scalar<T> at_most(Scalar<T> high, Scalar<T> x) {
  return x.value > high.value ? high : x;
}
// 2^23 + 2^22: added to a float of less than 2^22 in magnitude, its last bit counts ones.
inline constexpr float kOnes = 12582912.0f;

template <class T>
RNNKERN_HD Scalar<T> round(Scalar<T> x) {
  if constexpr (std::is_same_v<T, float>) {
    return Scalar<T>((x.value + kOnes) - kOnes);  // in half the time of rint; |x| < 2^22
  } else {
    return Scalar<T>(std::rint(x.value));
  }
}
// n is between the exponents of normal numbers and infinity, or NaN, for which any number will do.
template <class T>
RNNKERN_HD Scalar<T> pow2(Scalar<T> n) {
  if constexpr (std::is_same_v<T, float>) {
    return Scalar<T>(float_of((bits_of(n.value + kOnes) << 23) + 0x3f800000u));
  } else {
    const double exponent = n.value == n.value ? n.value : 0;  // the conversion of a NaN would be undefined
    const int64_t bits = (static_cast<int64_t>(exponent) + 1023) << 52;
    double result;
    memcpy(&result, &bits, sizeof(result));
    return Scalar<T>(result);
  }
}
template <class T>
RNNKERN_HD Scalar<T> zero_where_le0(Scalar<T> d, Scalar<T> y) {
  return y.value <= T(0) ? Scalar<T>(T(0)) : d;
}

}  // namespace rnnkern::cuda
