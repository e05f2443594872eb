// The strategy for any size and any GPU: per time step one matrix product and one elementwise kernel. The input
// projection runs ahead, and the weight gradients behind, in chunks of many steps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/problem.h"
#include "cuda/passes.h"

namespace rnnkern::cuda::stepwise {

// Bytes of scratch in device memory that the calls below need.
size_t forward_scratch(const ForwardProblem& problem, const PassOptions& options);
size_t backward_scratch(const BackwardProblem& problem, const PassOptions& options);

// Enqueue a call on the current stream. scratch is aligned to 64 bytes.
void forward(const ForwardProblem& problem, const PassOptions& options, void* scratch);
void backward(const BackwardProblem& problem, const PassOptions& options, void* scratch);

}  // namespace rnnkern::cuda::stepwise
