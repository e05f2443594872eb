#include "cublas_v2.h"

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <optional>

struct EmulatedCublas {
  cublasMath_t mode = CUBLAS_DEFAULT_MATH;
};

namespace {

struct Operand {
  const void* data;
  cudaDataType_t type;
  int64_t stride;
  cublasOperation_t operation;
  int64_t rows, columns;  // after the operation

  bool is_valid() const { return stride >= std::max<int64_t>(1, operation == CUBLAS_OP_N ? rows : columns); }
};

std::optional<at::ScalarType> scalar_type(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_32F:
      return at::kFloat;
    case CUDA_R_64F:
      return at::kDouble;
    case CUDA_R_16F:
      return at::kHalf;
    case CUDA_R_16BF:
      return at::kBFloat16;
  }
  return std::nullopt;
}

at::Tensor view(const Operand& operand) {
  const bool plain = operand.operation == CUBLAS_OP_N;
  const std::vector<int64_t> strides{plain ? 1 : operand.stride, plain ? operand.stride : 1};
  return at::from_blob(const_cast<void*>(operand.data), {operand.rows, operand.columns}, strides,
                       at::TensorOptions(*scalar_type(operand.type)));
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "invalid or unsupported arguments";
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  *mode = handle->mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  handle->mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int64_t m, int64_t n,
                               int64_t k, const void* alpha, const void* a, cudaDataType_t a_type, int64_t lda,
                               const void* b, cudaDataType_t b_type, int64_t ldb, const void* beta, void* c,
                               cudaDataType_t c_type, int64_t ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
  const Operand left{a, a_type, lda, op_a, m, k}, right{b, b_type, ldb, op_b, k, n};
  const Operand result{c, c_type, ldc, CUBLAS_OP_N, m, n};
  if (!left.is_valid() || !right.is_valid() || !result.is_valid()) return CUBLAS_STATUS_INVALID_VALUE;
  const bool is_double = compute == CUBLAS_COMPUTE_64F;
  const bool types_fit = a_type == b_type && (a_type == CUDA_R_64F) == is_double &&
                         (c_type == a_type || (c_type == CUDA_R_32F && !is_double));
  if (!types_fit) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto scalar = [&](const void* value) {
    return is_double ? *static_cast<const double*>(value) : *static_cast<const float*>(value);
  };
  // Summed in double, so that what is not exact comes from the kernels around it.
  at::Tensor sum = at::mm(view(left).to(at::kDouble), view(right).to(at::kDouble)).mul_(scalar(alpha));
  const at::Tensor out = view(result);
  if (scalar(beta) != 0) sum.add_(out.to(at::kDouble), scalar(beta));
  out.copy_(sum);
  return CUBLAS_STATUS_SUCCESS;
}

namespace at::cuda {

cublasHandle_t getCurrentCUDABlasHandle() {
  static EmulatedCublas handle;
  return &handle;
}

}  // namespace at::cuda
