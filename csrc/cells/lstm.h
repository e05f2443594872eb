// c' = f c + i g, h' = o tanh(c'), gates i f g o. S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997,
// with the forget gate of F. Gers et al., 2000; as torch.nn.LSTM.
#pragma once

#include "cells/cell.h"

namespace rnnkern {

struct Lstm {
  static constexpr char kName[] = "lstm";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4;
  static constexpr bool kSplitGates = false, kDirectH = false;

  template <class V>
  static RNNKERN_HD void forward(const Pack<V, 4>& x, const Pack<V, 4>& r, Pack<V, 2>& state, Pack<V, 4>& saved) {
    const V i = sigmoid(x[0] + r[0]);
    const V f = sigmoid(x[1] + r[1]);
    const V g = tanh(x[2] + r[2]);
    const V o = sigmoid(x[3] + r[3]);
    const V c = fma(f, state[1], i * g);
    state = {o * tanh(c), c};
    saved = {i, f, g, o};
  }

  template <class V>
  static RNNKERN_HD void backward(const Pack<V, 4>& saved, const Pack<V, 2>& old_state, const Pack<V, 2>& new_state,
                                  Pack<V, 2>& dstate, Pack<V, 4>& dx, Pack<V, 4>&) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V dh = dstate[0];
    const V tanh_c = tanh(new_state[1]);
    const V dc = fma(dh * o, tanh_derivative(tanh_c), dstate[1]);
    dx[0] = dc * g * sigmoid_derivative(i);
    dx[1] = dc * old_state[1] * sigmoid_derivative(f);
    dx[2] = dc * i * tanh_derivative(g);
    dx[3] = dh * tanh_c * sigmoid_derivative(o);
    dstate[1] = dc * f;
  }
};

}  // namespace rnnkern
