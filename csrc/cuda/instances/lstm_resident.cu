#include "cuda/resident.cuh"

namespace rnnkern::cuda::resident {

template Kernels make_kernels<Lstm>(Arithmetic);

}  // namespace rnnkern::cuda::resident
