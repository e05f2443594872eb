// Declarations of cuBLAS that rnnkern and PyTorch's headers name, for toolkits that come without its headers.
#pragma once

#include <library_types.h>

#include <cstdint>

using cublasHandle_t = struct cublasContext*;

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };
enum cublasMath_t {
  CUBLAS_DEFAULT_MATH = 0,
  CUBLAS_TF32_TENSOR_OP_MATH = 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
};

extern "C" {
const char* cublasGetStatusString(cublasStatus_t);
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t*);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t, cublasOperation_t, int64_t, int64_t, int64_t,
                               const void*, const void*, cudaDataType, int64_t, const void*, cudaDataType, int64_t,
                               const void*, void*, cudaDataType, int64_t, cublasComputeType_t, cublasGemmAlgo_t);
}
