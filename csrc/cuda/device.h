// The streams of the GPU that PyTorch has made current.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace rnnkern::cuda {

cudaStream_t current_stream();

// Calls advance(d) for the directions in turn until each has returned false, direction 1 on a stream of its own that
// starts after what the current stream holds now and that the current stream waits for in the end, also when advance
// throws. Inside advance(d) the current stream is that of d.
void run_directions(int directions, const std::function<bool(int direction)>& advance);

}  // namespace rnnkern::cuda
