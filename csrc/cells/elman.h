// h' = f(x + r), f = tanh or relu. J. L. Elman, "Finding structure in time", 1990; as torch.nn.RNN.
#pragma once

#include "cells/cell.h"

namespace rnnkern {

struct Tanh {
  static constexpr char kName[] = "rnn_tanh";
  template <class V>
  static RNNKERN_HD V apply(V x) {
    return tanh(x);
  }
  template <class V>
  static RNNKERN_HD V derivative(V y, V dy) {
    return dy * tanh_derivative(y);
  }
};

struct Relu {
  static constexpr char kName[] = "rnn_relu";
  template <class V>
  static RNNKERN_HD V apply(V x) {
    return at_least(V(0), x);
  }
  template <class V>
  static RNNKERN_HD V derivative(V y, V dy) {
    return zero_where_le0(dy, y);
  }
};

template <class Activation>
struct Elman {
  static constexpr const char* kName = Activation::kName;
  static constexpr int kGates = 1, kStates = 1, kSaved = 0;
  static constexpr bool kSplitGates = false, kDirectH = false;

  template <class V>
  static RNNKERN_HD void forward(const Pack<V, 1>& x, const Pack<V, 1>& r, Pack<V, 1>& state, Pack<V, 0>&) {
    state[0] = Activation::apply(x[0] + r[0]);
  }

  template <class V>
  static RNNKERN_HD void backward(const Pack<V, 0>&, const Pack<V, 1>&, const Pack<V, 1>& new_state, Pack<V, 1>& dstate,
                                  Pack<V, 1>& dx, Pack<V, 1>&) {
    dx[0] = Activation::derivative(new_state[0], dstate[0]);
  }
};

}  // namespace rnnkern
