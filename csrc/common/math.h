// exp, sigmoid and tanh, generic over the value type V.
//
// V is one ISA's vector. Found by argument-dependent lookup beside V: fma(a, b, c), at_least(low, x) and
// at_most(high, x) (which let a NaN in x through), round(x) to the nearest integer, pow2(n) for integral n,
// and zero_where_le0(d, y).
#pragma once

#include "common/macros.h"

namespace rnnkern {

template <class T>
struct ExpConstants;

// kTerms: Taylor terms of e^r - 1 for |r| <= ln(2)/2; the first one left out is below a tenth of an ulp.
// kLn2High has trailing zero bits, so that n * kLn2High is exact. Below kLowest
// 2^n would no longer be a normal number; at kHighest it is infinite.
template <>
struct ExpConstants<float> {
  static constexpr int kTerms = 7;
  static constexpr float kLog2e = 1.44269504089f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -87.0f, kHighest = 88.5f;
};

template <>
struct ExpConstants<double> {
  static constexpr int kTerms = 13;
  static constexpr double kLog2e = 1.4426950408889634, kLn2High = 0.693147180369123816490,
                          kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLowest = -708.0, kHighest = 709.9;
};

template <class T>
struct InverseFactorials {
  T values[ExpConstants<T>::kTerms + 1] = {T(1)};
  constexpr InverseFactorials() {
    for (int k = 1; k <= ExpConstants<T>::kTerms; ++k) values[k] = values[k - 1] / T(k);
  }
};

// e^x = scale * (1 + fraction), with fraction = e^r - 1 accurate also near r = 0.
template <class V>
struct ExpParts {
  V scale, fraction;
};

template <class V>
RNNKERN_HD ExpParts<V> exp_parts(V x) {
  using T = typename V::Element;
  using C = ExpConstants<T>;
  x = at_least(V(C::kLowest), at_most(V(C::kHighest), x));
  const V n = round(x * V(C::kLog2e));
  const V r = fma(n, V(-C::kLn2Low), fma(n, V(-C::kLn2High), x));
  constexpr InverseFactorials<T> kTaylor;
  V sum = V(kTaylor.values[C::kTerms]);
  RNNKERN_UNROLL
  for (int k = C::kTerms - 1; k >= 2; --k) sum = fma(sum, r, V(kTaylor.values[k]));
  return {pow2(n), fma(sum, r * r, r)};
}

template <class V>
RNNKERN_HD V sigmoid(V x) {
  const ExpParts<V> e = exp_parts(-x);
  return V(1) / (e.scale * (e.fraction + V(1)) + V(1));
}

// (e^2x - 1) / (e^2x + 1): no cancellation near 0. Beyond |x| = 20 the result is +-1 in either precision.
template <class V>
RNNKERN_HD V tanh(V x) {
  const V bounded = at_least(V(-20), at_most(V(20), x));
  const ExpParts<V> e = exp_parts(bounded + bounded);
  const V expm1 = fma(e.scale, e.fraction, e.scale - V(1));
  return expm1 / (expm1 + V(2));
}

// Derivatives, from the function's own value y.
template <class V>
RNNKERN_HD V sigmoid_derivative(V y) {
  return y * (V(1) - y);
}

template <class V>
RNNKERN_HD V tanh_derivative(V y) {
  return (V(1) + y) * (V(1) - y);
}

}  // namespace rnnkern
