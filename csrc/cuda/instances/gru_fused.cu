#include "cuda/fused.cuh"

namespace rnnkern::cuda::fused {

template Kernels make_kernels<Gru>(Arithmetic);

}  // namespace rnnkern::cuda::fused
