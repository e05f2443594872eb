// The torch-facing side: checks, allocation and the choice of device and backend. One layer, D directions, per call.
//
// Shapes (letters as in common/problem.h): x [T, N, I], or [M, I] with batch_sizes, an int64 CPU tensor [T] that never
// increases and sums to M. states: h [D, N, R], then the cell's further states [D, N, H]. weights: for each direction
// w_ih [G*H, I], w_hh [G*H, R], b_ih and b_hh [G*H] or none, w_hr [P, H] or none. All floating tensors share one dtype
// (float32, float64, bfloat16 or float16) and one device; any strides. 16-bit types are computed in float32; a GPU's
// kernels read and write them as they are, a CPU's get them converted.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rnnkern {

using Tensors = std::vector<at::Tensor>;
using OptionalTensors = std::vector<std::optional<at::Tensor>>;

struct CellInfo {
  std::string name;
  int gates, states, residuals;
  bool projection;  // takes w_hr
};

// All cells, in the order of cells/all.h.
std::vector<CellInfo> cells();

// Instruction sets that this CPU can run, the best first, and the one that the next call will use.
std::vector<std::string> backends();
std::string active_backend();

// The CUDA release that this build's kernels were compiled with, as "13.0"; none without CUDA.
std::optional<std::string> cuda_version();

// GPUs whose facts are recorded, for explain.
std::vector<std::string> gpus();

// What a forward call would do, as terms and their values in the order in which to read them. batch_sizes has the rows
// of each time step. device is "cpu", "cuda" for the current GPU, or one of gpus(). Throws std::runtime_error on an
// unknown cell or device, or a strategy forced that cannot run.
using Explanation = std::vector<std::pair<std::string, std::string>>;
Explanation explain(const std::string& cell, at::ScalarType dtype, const std::vector<int64_t>& batch_sizes,
                    int64_t input, int64_t hidden, int64_t projection, int directions, const std::string& device);

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
