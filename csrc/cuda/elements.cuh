// What the elementwise kernels share: the two types of a problem, typed loads and stores, and the grid they run on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "common/dtype.h"
#include "common/problem.h"
#include "common/schedule.h"
#include "cuda/launch.cuh"
#include "cuda/plan.h"
#include "cuda/pointwise.h"
#include "cuda/primitives.cuh"
#include "cuda/scalar.cuh"

namespace rnnkern::cuda {

template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

// body(S{}) for the storage type S.
template <class Body>
auto visit_storage(DType storage, const Body& body) {
  switch (storage) {
    case DType::kFloat:
      return body(float{});
    case DType::kDouble:
      return body(double{});
    case DType::kHalf:
      return body(Half{});
    case DType::kBFloat16:
      return body(BFloat16{});
  }
  throw std::logic_error("not a DType");
}

template <class S>
__device__ __forceinline__ S element(const void* data, int64_t index) {
  return static_cast<const S*>(data)[index];
}

template <class S>
__device__ __forceinline__ Scalar<Compute<S>> load(const void* data, int64_t index) {
  return Scalar<Compute<S>>(widen(element<S>(data, index)));
}

template <class S>
__device__ __forceinline__ void store(void* data, int64_t index, Scalar<Compute<S>> value) {
  static_cast<S*>(data)[index] = narrow<S>(value.value);
}

// One thread a column; rows are blockIdx.y, then every gridDim.y-th.
inline LaunchConfig rows_and_columns(int64_t rows, int64_t columns, cudaStream_t stream) {
  constexpr int64_t kWarp = 32, kMostBlocksAcross = 65535;
  const int64_t threads = std::min<int64_t>(kPointwiseThreads, ceil_div(columns, kWarp) * kWarp);
  const auto across = static_cast<unsigned>(ceil_div(columns, threads));
  const auto down = static_cast<unsigned>(std::min(rows, kMostBlocksAcross));
  return {dim3(across, down), dim3(static_cast<unsigned>(threads)), 0, stream};
}

__device__ __forceinline__ int64_t my_column() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace rnnkern::cuda
