// h' = (1 - z) n + z h, n = tanh(x_n + r r_n), gates r z n: the reset gate is applied after the recurrent product.
// K. Cho et al., 2014 (arXiv 1406.1078, version 1); as torch.nn.GRU.
#pragma once

#include "cells/cell.h"

namespace rnnkern {

struct Gru {
  static constexpr char kName[] = "gru";
  static constexpr int kGates = 3, kStates = 1, kSaved = 4;
  static constexpr bool kSplitGates = true, kDirectH = true;

  template <class V>
  static RNNKERN_HD void forward(const Pack<V, 3>& x, const Pack<V, 3>& r, Pack<V, 1>& state, Pack<V, 4>& saved) {
    const V reset = sigmoid(x[0] + r[0]);
    const V update = sigmoid(x[1] + r[1]);
    const V candidate = tanh(fma(reset, r[2], x[2]));
    state[0] = fma(update, state[0] - candidate, candidate);
    saved = {reset, update, candidate, r[2]};
  }

  template <class V>
  static RNNKERN_HD void backward(const Pack<V, 4>& saved, const Pack<V, 1>& old_state, const Pack<V, 1>&,
                                  Pack<V, 1>& dstate, Pack<V, 3>& dx, Pack<V, 3>& dr) {
    const V reset = saved[0], update = saved[1], candidate = saved[2], recurrent = saved[3];
    const V dh = dstate[0];
    const V dn = dh * (V(1) - update) * tanh_derivative(candidate);
    const V dreset = dn * recurrent * sigmoid_derivative(reset);
    const V dupdate = dh * (old_state[0] - candidate) * sigmoid_derivative(update);
    dx = {dreset, dupdate, dn};
    dr = {dreset, dupdate, dn * reset};
    dstate[0] = dh * update;
  }
};

}  // namespace rnnkern
