#include "cuda/resident.cuh"

namespace rnnkern::cuda::resident {

template Kernels make_kernels<Elman<Relu>>(Arithmetic);

}  // namespace rnnkern::cuda::resident
