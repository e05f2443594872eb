// The torch-facing side: checks, allocation and the choice of device and backend. One layer, D directions, per call.
//
// Shapes (letters as in common/problem.h): x [T, N, I], or [M, I] with batch_sizes, an int64 CPU tensor [T] that never
// increases and sums to M. states: h [D, N, R], then the cell's further states [D, N, H]. weights: for each direction
// w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] or none, w_hr [P, H] or none. A single step of one direction may come
// as x [N, I] with states without D; its results have neither T nor D then. All floating tensors share one dtype
// (float32, float64, bfloat16 or float16) and one device; any strides. 16-bit types are computed in float32; a GPU's
// kernels read and write them as they are, a CPU's get them converted.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "layer.h"

namespace rnnkern {

// Returns y [T, N, D*R] or [M, D*R], the final states, and when training the residuals that backward wants back:
// the cell's further states [D, M, H] each, its saved values [D, M, kSaved*H], and h before the projection
// [D, M, H] ([D, M, 0] without one). All are fresh, dense tensors. Throws std::runtime_error on bad input.
Tensors forward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                const Tensors& states, const OptionalTensors& weights, bool training);

// Gradients of x, states and weights, in that order; none where not wanted or where there is no such weight.
// dy and dfinal are the gradients of y and of the final states; wanted has one flag for each result.
OptionalTensors backward(const std::string& cell, const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes,
                         const Tensors& states, const OptionalTensors& weights, const at::Tensor& y,
                         const Tensors& residuals, const at::Tensor& dy, const Tensors& dfinal,
                         const std::vector<bool>& wanted);

}  // namespace rnnkern
