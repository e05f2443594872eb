#include "cuda/resident.cuh"

namespace rnnkern::cuda::resident {

template Kernels make_kernels<Elman<Tanh>>(Arithmetic);

}  // namespace rnnkern::cuda::resident
