#include "cuda/gemm.h"

#include <ATen/cuda/CUDAContext.h>
#include <cublas_v2.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/backend.h"
#include "cuda/device.h"
#include "cuda/launch.cuh"

namespace rnnkern::cuda {
namespace {

void check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(what) + " failed: " + cublasGetStatusString(status));
}

cudaDataType_t cuda_type(DType type) {
  switch (type) {
    case DType::kDouble:
      return CUDA_R_64F;
    case DType::kHalf:
      return CUDA_R_16F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat:
      break;
  }
  return CUDA_R_32F;
}

// Sets how exactly a handle multiplies, and puts back what was set before: the handle is PyTorch's.
class Precision {
 public:
  Precision(cublasHandle_t handle, DType storage) : handle_(handle) {
    check_cublas(cublasGetMathMode(handle, &before_), "cublasGetMathMode");
    const bool tf32 = storage == DType::kFloat && allow_tf32();
    const int mode =
        tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    check_cublas(cublasSetMathMode(handle, static_cast<cublasMath_t>(mode)), "cublasSetMathMode");
  }
  ~Precision() { cublasSetMathMode(handle_, before_); }
  Precision(const Precision&) = delete;
  Precision& operator=(const Precision&) = delete;

 private:
  cublasHandle_t handle_;
  cublasMath_t before_;
};

cublasOperation_t operation(const Matrix& matrix) { return matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

// A product without depth, which cuBLAS does not define.
void clear(DType result, const Product& product) {
  const auto bytes = [&](int64_t elements) { return static_cast<size_t>(elements * element_bytes(result)); };
  cuda::check(cudaMemset2DAsync(product.c, bytes(product.c_stride), 0, bytes(product.n), static_cast<size_t>(product.m),
                                current_stream()),
              "cannot clear a product");
}

}  // namespace

// cuBLAS is column-major: it sees the transpose of every matrix, and computes c^T = b^T * a^T.
void multiply(DType storage, DType result, const Product& product) {
  if (product.m == 0 || product.n == 0 || (product.k == 0 && product.accumulate)) return;
  if (product.k == 0) return clear(result, product);
  const cublasHandle_t handle = at::cuda::getCurrentCUDABlasHandle();
  const Precision precision(handle, storage);
  const double one = 1, beta = product.accumulate ? 1 : 0;
  const float one_float = 1, beta_float = static_cast<float>(beta);
  const bool is_double = storage == DType::kDouble;
  const cudaDataType_t type = cuda_type(storage);
  const auto stride = [](int64_t elements) { return std::max<int64_t>(elements, 1); };
  check_cublas(cublasGemmEx_64(handle, operation(product.b), operation(product.a), product.n, product.m, product.k,
                               is_double ? static_cast<const void*>(&one) : &one_float, product.b.data, type,
                               stride(product.b.stride), product.a.data, type, stride(product.a.stride),
                               is_double ? static_cast<const void*>(&beta) : &beta_float, product.c, cuda_type(result),
                               stride(product.c_stride), is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                               CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
}

}  // namespace rnnkern::cuda
