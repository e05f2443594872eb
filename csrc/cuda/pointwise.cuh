// One thread per unit and row: gate pre-activations and old states in, new states out; and the same backward.
#pragma once

#include "cells/all.h"
#include "common/pack.h"
#include "cuda/elements.cuh"

namespace rnnkern::cuda {

// What a unit and row reads at a step, besides its recurrent product. 16-bit numbers stay what they are until they are used,
// and an initial state does not become a running one: a conversion waits for what it converts, and others may be loaded
// meanwhile.
template <class Cell, class S>
struct ForwardInputs {
  using V = Scalar<Compute<S>>;
  Pack<V, Cell::kGates> x;
  Pack<S, Cell::kGates> b_ih, b_hh;
  S old_h;                         // for kDirectH
  Pack<V, Cell::kStates> state;    // 1.. only
  Pack<S, Cell::kStates> initial;  // instead, for rows that start
};

template <class Cell, class S>
__device__ __forceinline__ ForwardInputs<Cell, S> load_forward(const ForwardStep& step, int64_t n, int64_t unit) {
  using T = Compute<S>;
  const int64_t H = step.hidden, at = n * H + unit;
  const bool fresh = n >= step.continuing;
  ForwardInputs<Cell, S> inputs{};
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    inputs.x[g] = load<T>(step.x_gates, (n * Cell::kGates + g) * H + unit);
    if (step.b_ih != nullptr) inputs.b_ih[g] = element<S>(step.b_ih, g * H + unit);
    if (step.b_hh != nullptr) inputs.b_hh[g] = element<S>(step.b_hh, g * H + unit);
  }
  if constexpr (Cell::kDirectH) {
    inputs.old_h = fresh ? element<S>(step.initial[0], at) : element<S>(step.old_h, n * step.h_stride + unit);
  }
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    if (fresh) {
      inputs.initial[k] = element<S>(step.initial[k], at);
    } else {
      inputs.state[k] = load<T>(step.old_states[k], at);
    }
  }
  return inputs;
}

// Runs the cell with its recurrent product, without bias. Returns the new h as it was put out.
template <class Cell, class S>
__device__ __forceinline__ S run_forward(const ForwardStep& step, int64_t n, int64_t unit,
                                         const ForwardInputs<Cell, S>& inputs,
                                         const Pack<Scalar<Compute<S>>, Cell::kGates>& product) {
  using T = Compute<S>;
  using V = Scalar<T>;
  const int64_t H = step.hidden, at = n * H + unit;
  const bool fresh = n >= step.continuing, ends = n >= step.ending;
  Pack<V, Cell::kGates> x, r;
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    x[g] = inputs.x[g] + V(widen(inputs.b_ih[g]));
    r[g] = product[g] + V(widen(inputs.b_hh[g]));
  }
  Pack<V, Cell::kStates> state;
  if constexpr (Cell::kDirectH) state[0] = V(widen(inputs.old_h));
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) state[k] = fresh ? V(widen(inputs.initial[k])) : inputs.state[k];
  Pack<V, Cell::kSaved> saved;
  Cell::forward(x, r, state, saved);

  const S h = narrow<S>(state[0].value);
  static_cast<S*>(step.new_h)[n * step.new_h_stride + unit] = h;
  if (ends && step.final[0] != nullptr) static_cast<S*>(step.final[0])[at] = h;
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    store<T>(step.new_states[k], at, state[k]);
    if (ends) store<S>(step.final[k], at, state[k]);
  }
  if (step.saved != nullptr) {
    RNNKERN_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) store<T>(step.saved, (n * Cell::kSaved + k) * H + unit, saved[k]);
  }
  return h;
}

template <class Cell, class S>
__device__ __forceinline__ void forward_unit(const ForwardStep& step, int64_t n, int64_t unit) {
  Pack<Scalar<Compute<S>>, Cell::kGates> product;
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    product[g] = load<Compute<S>>(step.r_gates, (n * Cell::kGates + g) * step.hidden + unit);
  }
  run_forward<Cell, S>(step, n, unit, load_forward<Cell, S>(step, n, unit), product);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kPointwiseThreads) forward_kernel(const ForwardStep step) {
  const int64_t unit = my_column();
  if (unit >= step.hidden) return;
  for (int64_t n = blockIdx.y; n < step.rows; n += gridDim.y) forward_unit<Cell, S>(step, n, unit);
}

// What a unit and row reads at a step backward, besides the product that the later step gives it.
template <class Cell, class S>
struct BackwardInputs {
  using V = Scalar<Compute<S>>;
  S dy, old_h, new_h;
  Pack<V, Cell::kStates> old_state, new_state, dstates;  // 1.. only
  Pack<S, Cell::kStates> initial;                        // instead of old_state, for rows that start
  Pack<V, Cell::kStates> dstate;
  Pack<V, Cell::kSaved> saved;
};

template <class Cell, class S>
__device__ __forceinline__ BackwardInputs<Cell, S> load_backward(const BackwardStep& step, int64_t n, int64_t unit) {
  using T = Compute<S>;
  const int64_t H = step.hidden, at = n * H + unit;
  const bool fresh = n >= step.continuing;
  BackwardInputs<Cell, S> inputs{};
  if (step.dy != nullptr) inputs.dy = element<S>(step.dy, n * step.y_stride + unit);
  if (Cell::kDirectH || n >= step.later) inputs.dstate[0] = load<T>(step.dstate[0], at);
  if (Cell::kDirectH || step.previous_h != nullptr) {
    inputs.old_h = fresh ? element<S>(step.initial[0], at) : element<S>(step.old_h, n * step.y_stride + unit);
  }
  inputs.new_h = element<S>(step.new_h, n * step.new_h_stride + unit);
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    if (fresh) {
      inputs.initial[k] = element<S>(step.initial[k], at);
    } else {
      inputs.old_state[k] = load<T>(step.old_states[k], at);
    }
    inputs.new_state[k] = load<T>(step.new_states[k], at);
    inputs.dstate[k] = load<T>(step.dstate[k], at);
    if (step.dstates[k] != nullptr) inputs.dstates[k] = load<T>(step.dstates[k], at);
  }
  RNNKERN_UNROLL
  for (int k = 0; k < Cell::kSaved; ++k) inputs.saved[k] = load<T>(step.saved, (n * Cell::kSaved + k) * H + unit);
  return inputs;
}

// Runs the cell backward; of rows that end here the product is not read. Returns the gradients of the gates' recurrent
// part as they were put out.
template <class Cell, class S>
__device__ __forceinline__ Pack<S, Cell::kGates> run_backward(const BackwardStep& step, int64_t n, int64_t unit,
                                                              const BackwardInputs<Cell, S>& inputs,
                                                              Scalar<Compute<S>> product) {
  using T = Compute<S>;
  using V = Scalar<T>;
  const int64_t H = step.hidden, at = n * H + unit;
  if (step.previous_h != nullptr) static_cast<S*>(step.previous_h)[at] = inputs.old_h;
  Pack<V, Cell::kStates> old_state, new_state = inputs.new_state, dstate;
  old_state[0] = V(widen(inputs.old_h));
  new_state[0] = V(widen(inputs.new_h));
  dstate[0] = V(widen(inputs.dy));
  if (n < step.later) dstate[0] = dstate[0] + product;
  dstate[0] = dstate[0] + inputs.dstate[0];
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    old_state[k] = n >= step.continuing ? V(widen(inputs.initial[k])) : inputs.old_state[k];
    dstate[k] = inputs.dstate[k] + inputs.dstates[k];
  }

  Pack<V, Cell::kGates> dx, dr;
  Cell::backward(inputs.saved, old_state, new_state, dstate, dx, dr);

  RNNKERN_UNROLL
  for (int k = Cell::kDirectH ? 0 : 1; k < Cell::kStates; ++k) store<T>(step.dstate[k], at, dstate[k]);
  Pack<S, Cell::kGates> recurrent;
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    const int64_t gate = (n * Cell::kGates + g) * H + unit;
    store<S>(step.dx_gates, gate, dx[g]);
    recurrent[g] = narrow<S>((Cell::kSplitGates ? dr[g] : dx[g]).value);
    if constexpr (Cell::kSplitGates) static_cast<S*>(step.dr_gates)[gate] = recurrent[g];
  }
  return recurrent;
}

template <class Cell, class S>
__device__ __forceinline__ void backward_unit(const BackwardStep& step, int64_t n, int64_t unit) {
  Scalar<Compute<S>> product{};
  if (n < step.later) product = load<Compute<S>>(step.product, n * step.hidden + unit);
  run_backward<Cell, S>(step, n, unit, load_backward<Cell, S>(step, n, unit), product);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kPointwiseThreads) backward_kernel(const BackwardStep step) {
  const int64_t unit = my_column();
  if (unit >= step.hidden) return;
  for (int64_t n = blockIdx.y; n < step.rows; n += gridDim.y) backward_unit<Cell, S>(step, n, unit);
}

template <class Cell, class S>
void launch_forward(const ForwardStep& step, cudaStream_t stream) {
  launch(forward_kernel<Cell, S>, rows_and_columns(step.rows, step.hidden, stream), step);
}

template <class Cell, class S>
void launch_backward(const BackwardStep& step, cudaStream_t stream) {
  launch(backward_kernel<Cell, S>, rows_and_columns(step.rows, step.hidden, stream), step);
}

template <class Cell>
PointwiseKernels make_pointwise_kernels(DType storage) {
  return visit_storage(storage, [](auto type) {
    using S = decltype(type);
    return PointwiseKernels{Cell::kGates,
                            Cell::kStates,
                            Cell::kSaved,
                            Cell::kSplitGates,
                            Cell::kDirectH,
                            launch_forward<Cell, S>,
                            launch_backward<Cell, S>};
  });
}

}  // namespace rnnkern::cuda
