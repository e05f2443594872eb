#include "cuda/fused.cuh"

namespace rnnkern::cuda::fused {

template Kernels make_kernels<Lstm>(Arithmetic);

}  // namespace rnnkern::cuda::fused
