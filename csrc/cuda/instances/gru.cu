#include "cuda/pointwise.cuh"

namespace rnnkern::cuda {

template PointwiseKernels make_pointwise_kernels<Gru>(DType);

}  // namespace rnnkern::cuda
