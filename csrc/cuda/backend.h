// What the layer above asks of CUDA.
#pragma once

#include <cstddef>
#include <string_view>

#include "common/problem.h"
#include "cuda/plan.h"

namespace rnnkern::cuda {

// The CUDA release of this build's kernels as major * 1000 + minor * 10, or 0 in a build without them.
int build_version();

// PyTorch's switch of TF32 for recurrent networks, on any GPU and in any build.
bool allow_tf32();

// Whether tensors of this type of device ("cpu", "cuda") are run here. False throughout in a build without CUDA, where
// none of what follows may be called.
bool serves(std::string_view device_type);

// The device that is current in PyTorch.
const Gpu& current_gpu();

// One call on the current device and stream, for the cell at position `cell` of AllCells. The caller owns the scratch
// memory, aligned to 64 bytes, on that device.
size_t forward_scratch(int cell, DType storage, const ForwardProblem& problem, const Plan& plan);
void forward(int cell, DType storage, const ForwardProblem& problem, const Plan& plan, void* scratch);
size_t backward_scratch(int cell, DType storage, const BackwardProblem& problem, const Plan& plan);
void backward(int cell, DType storage, const BackwardProblem& problem, const Plan& plan, void* scratch);

}  // namespace rnnkern::cuda
