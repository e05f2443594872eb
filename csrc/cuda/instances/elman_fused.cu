#include "cuda/fused.cuh"

namespace rnnkern::cuda::fused {

template Kernels make_kernels<Elman<Tanh>>(Arithmetic);
template Kernels make_kernels<Elman<Relu>>(Arithmetic);

}  // namespace rnnkern::cuda::fused
