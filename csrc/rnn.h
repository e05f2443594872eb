// The torch-facing side: checks, allocation and the choice of device and backend. One layer, D directions, per call.
//
// A Layer's tensors (letters as in common/problem.h):
// - x [T, N, I]. sizes, if any, are the lengths of its N sequences: integers from 0 to T on any device. What x has beyond
//   a length is not read.
// - or x [M, I], a packed sequence. sizes is its batch_sizes: int64 [T] on the CPU, never increasing, with the sum M.
// - or x [N, I], a single step of one direction, with states without D; its results have neither T nor D then.
// - states: h [D, N, R], then the cell's further states [D, N, H].
// - weights: for each direction w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] or none, w_hr [P, H] or none.
// All floating tensors share one dtype (float32, float64, bfloat16 or float16) and one device; any strides. 16-bit types are
// computed in float32; a GPU's kernels read and write them as they are, a CPU's get them converted.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "layer.h"

namespace rnnkern {

// Returns y, with x's sizes but D*R features, and the final states, those after each sequence's last step; if all_states
// the cell's further states after every step, as y is, of D*H features; and when training the residuals that backward
// wants back: the further states [D, M, H] each, the cell's saved values [D, M, kSaved*H], and h before the projection
// [D, M, H] ([D, M, 0] without one). Beyond a length y and the states are zero, and of the residuals, with M = T*N then,
// only the first rows have values. All are fresh, dense tensors. Throws std::runtime_error on bad input.
Tensors forward(const Layer& layer, bool training, bool all_states);

// The layer's weights, those of one direction, packed ahead for calls of forward with any x, states and sizes; of the
// layer nothing else is read. None on a GPU, whose kernels read weights as they are.
Frozen freeze(const Layer& layer);

// Gradients of x, states and weights, in that order; none where not wanted or where there is no such weight. dy, dfinal
// and dstates are the gradients of y, of the final states, and of the further states after every step, or none of these;
// wanted has one flag for each result.
OptionalTensors backward(const Layer& layer, const at::Tensor& y, const Tensors& residuals, const at::Tensor& dy,
                         const Tensors& dfinal, const Tensors& dstates, const std::vector<bool>& wanted);

}  // namespace rnnkern
