#include "cuda/pointwise.cuh"

namespace rnnkern::cuda {

template PointwiseKernels make_pointwise_kernels<Lstm>(DType);

}  // namespace rnnkern::cuda
