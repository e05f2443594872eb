// The strategies that launch kernels for every time step: a matrix product and an elementwise kernel (stepwise, for any
// size and any GPU), or one kernel for both (fused). The input projection runs ahead, and the weight gradients behind, in
// chunks of many steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/problem.h"
#include "cuda/fused.h"
#include "cuda/passes.h"

namespace rnnkern::cuda::stepwise {

struct Options {
  PassOptions pass;
  std::optional<fused::Kernels> fused;
};

// Bytes of scratch in device memory that the calls below need.
size_t forward_scratch(const ForwardProblem& problem, const Options& options);
size_t backward_scratch(const BackwardProblem& problem, const Options& options);

// Enqueue a call on the current stream. scratch is aligned to 64 bytes.
void forward(const ForwardProblem& problem, const Options& options, void* scratch);
void backward(const BackwardProblem& problem, const Options& options, void* scratch);

}  // namespace rnnkern::cuda::stepwise
