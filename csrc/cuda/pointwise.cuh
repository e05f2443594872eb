// One thread per unit and row: gate pre-activations and old states in, new states out; and the same backward.
#pragma once

#include "cells/all.h"
#include "common/pack.h"
#include "cuda/elements.cuh"

namespace rnnkern::cuda {

template <class Cell, class S>
__device__ __forceinline__ void forward_unit(const ForwardStep& step, int64_t n, int64_t unit) {
  using T = Compute<S>;
  using V = Scalar<T>;
  const int64_t H = step.hidden, at = n * H + unit;
  const bool fresh = n >= step.continuing, ends = n >= step.ending;

  Pack<V, Cell::kGates> x, r;
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    const int64_t gate = (n * Cell::kGates + g) * H + unit, bias = g * H + unit;
    x[g] = load<T>(step.x_gates, gate);
    r[g] = load<T>(step.r_gates, gate);
    if (step.b_ih != nullptr) x[g] = x[g] + load<S>(step.b_ih, bias);
    if (step.b_hh != nullptr) r[g] = r[g] + load<S>(step.b_hh, bias);
  }
  Pack<V, Cell::kStates> state;
  if constexpr (Cell::kDirectH) {
    state[0] = fresh ? load<S>(step.initial[0], at) : load<S>(step.old_h, n * step.h_stride + unit);
  }
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    state[k] = fresh ? load<S>(step.initial[k], at) : load<T>(step.old_states[k], at);
  }

  Pack<V, Cell::kSaved> saved;
  Cell::forward(x, r, state, saved);

  store<S>(step.new_h, n * step.new_h_stride + unit, state[0]);
  if (ends && step.final[0] != nullptr) store<S>(step.final[0], at, state[0]);
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    store<T>(step.new_states[k], at, state[k]);
    if (ends) store<S>(step.final[k], at, state[k]);
  }
  if (step.saved == nullptr) return;
  RNNKERN_UNROLL
  for (int k = 0; k < Cell::kSaved; ++k) store<T>(step.saved, (n * Cell::kSaved + k) * H + unit, saved[k]);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kPointwiseThreads) forward_kernel(const ForwardStep step) {
  const int64_t unit = my_column();
  if (unit >= step.hidden) return;
  for (int64_t n = blockIdx.y; n < step.rows; n += gridDim.y) forward_unit<Cell, S>(step, n, unit);
}

// The whole gradient of the h that a row put out at this step.
template <class Cell, class S>
__device__ __forceinline__ Scalar<Compute<S>> gradient_of_h(const BackwardStep& step, int64_t n, int64_t unit) {
  using T = Compute<S>;
  const int64_t at = n * step.hidden + unit;
  const bool goes_on = n < step.later;
  Scalar<T> dh(T(0));
  if (step.dy != nullptr) dh = dh + load<S>(step.dy, n * step.y_stride + unit);
  if (goes_on) dh = dh + load<T>(step.product, at);
  if (Cell::kDirectH || !goes_on) dh = dh + load<T>(step.dstate[0], at);
  return dh;
}

template <class Cell, class S>
__device__ __forceinline__ void backward_unit(const BackwardStep& step, int64_t n, int64_t unit) {
  using T = Compute<S>;
  using V = Scalar<T>;
  const int64_t H = step.hidden, at = n * H + unit;
  const bool fresh = n >= step.continuing;

  Pack<V, Cell::kStates> old_state, new_state, dstate;
  if (Cell::kDirectH || step.previous_h != nullptr) {
    old_state[0] = fresh ? load<S>(step.initial[0], at) : load<S>(step.old_h, n * step.y_stride + unit);
  }
  if (step.previous_h != nullptr) store<S>(step.previous_h, at, old_state[0]);
  new_state[0] = load<S>(step.new_h, n * step.new_h_stride + unit);
  dstate[0] = gradient_of_h<Cell, S>(step, n, unit);
  RNNKERN_UNROLL
  for (int k = 1; k < Cell::kStates; ++k) {
    old_state[k] = fresh ? load<S>(step.initial[k], at) : load<T>(step.old_states[k], at);
    new_state[k] = load<T>(step.new_states[k], at);
    dstate[k] = load<T>(step.dstate[k], at);
    if (step.dstates[k] != nullptr) dstate[k] = dstate[k] + load<T>(step.dstates[k], at);
  }
  Pack<V, Cell::kSaved> saved;
  RNNKERN_UNROLL
  for (int k = 0; k < Cell::kSaved; ++k) saved[k] = load<T>(step.saved, (n * Cell::kSaved + k) * H + unit);

  Pack<V, Cell::kGates> dx, dr;
  Cell::backward(saved, old_state, new_state, dstate, dx, dr);

  RNNKERN_UNROLL
  for (int k = Cell::kDirectH ? 0 : 1; k < Cell::kStates; ++k) store<T>(step.dstate[k], at, dstate[k]);
  RNNKERN_UNROLL
  for (int g = 0; g < Cell::kGates; ++g) {
    const int64_t gate = (n * Cell::kGates + g) * H + unit;
    store<S>(step.dx_gates, gate, dx[g]);
    if constexpr (Cell::kSplitGates) store<S>(step.dr_gates, gate, dr[g]);
  }
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
