// The part of PyTorch's CUDA context that rnnkern's matrix products ask for.
#pragma once

#include "cublas_v2.h"

namespace at::cuda {

cublasHandle_t getCurrentCUDABlasHandle();

}  // namespace at::cuda
