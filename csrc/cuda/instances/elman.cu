#include "cuda/pointwise.cuh"

namespace rnnkern::cuda {

template PointwiseKernels make_pointwise_kernels<Elman<Tanh>>(DType);
template PointwiseKernels make_pointwise_kernels<Elman<Relu>>(DType);

}  // namespace rnnkern::cuda
