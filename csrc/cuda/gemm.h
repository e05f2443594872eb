// Matrix products by cuBLAS, through PyTorch's handle: its workspace, and its settings of TF32 for recurrent networks.
#pragma once

#include <cstdint>

#include "common/problem.h"

namespace rnnkern::cuda {

// A row-major matrix in device memory; element (i, j) stands at data[i * stride + j], or transposed at
// data[j * stride + i].
struct Matrix {
  const void* data;
  int64_t stride;
  bool transposed = false;
};

// c = a * b, or c += a * b where accumulate, with a [m, k], b [k, n] and c [m, n] at c_stride. a and b have the storage
// type, c the type `result`, which is that type or its compute type. Products of 16-bit types are summed in float32. c
// overlaps neither. Runs on PyTorch's current stream. Throws std::runtime_error where cuBLAS fails.
struct Product {
  int64_t m, n, k;
  Matrix a, b;
  void* c;
  int64_t c_stride;
  bool accumulate = false;
};

void multiply(DType storage, DType result, const Product& product);

}  // namespace rnnkern::cuda
