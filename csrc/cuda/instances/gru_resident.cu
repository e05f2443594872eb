#include "cuda/resident.cuh"

namespace rnnkern::cuda::resident {

template Kernels make_kernels<Gru>(Arithmetic);

}  // namespace rnnkern::cuda::resident
