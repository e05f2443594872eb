// The strategy for any size and any GPU: per time step one matrix product and one elementwise kernel. The input
// projection runs ahead, and the weight gradients behind, in chunks of many steps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/problem.h"
#include "cuda/pointwise.h"

namespace rnnkern::cuda::stepwise {

struct Options {
  PointwiseKernels cell;
  DType storage;
  int64_t chunk_rows;  // rows of the sequence whose gates exist at once; at least those of one step are taken
};

// Bytes of scratch in device memory that the calls below need.
size_t forward_scratch(const ForwardProblem& problem, const Options& options);
size_t backward_scratch(const BackwardProblem& problem, const Options& options);

// Enqueue a call on the current stream. scratch is aligned to 64 bytes.
void forward(const ForwardProblem& problem, const Options& options, void* scratch);
void backward(const BackwardProblem& problem, const Options& options, void* scratch);

}  // namespace rnnkern::cuda::stepwise
