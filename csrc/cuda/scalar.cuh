// The value type V of a cell on a GPU: one number.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/macros.h"

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
  return Scalar<T>(a.value / b.value);
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
template <class T>
RNNKERN_HD Scalar<T> round(Scalar<T> x) {
  return Scalar<T>(std::rint(x.value));
}
template <class T>
RNNKERN_HD Scalar<T> pow2(Scalar<T> n) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kMantissaBits = sizeof(T) == 4 ? 23 : 52;
  constexpr Bits kBias = sizeof(T) == 4 ? 127 : 1023;
  const T exponent = n.value == n.value ? n.value : T(0);  // the conversion of a NaN would be undefined
  const Bits bits = (static_cast<Bits>(exponent) + kBias) << kMantissaBits;
  T result;
  memcpy(&result, &bits, sizeof(T));
  return Scalar<T>(result);
}
template <class T>
RNNKERN_HD Scalar<T> zero_where_le0(Scalar<T> d, Scalar<T> y) {
  return y.value <= T(0) ? Scalar<T>(T(0)) : d;
}

}  // namespace rnnkern::cuda
