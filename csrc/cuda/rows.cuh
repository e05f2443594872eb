// The elementwise kernels that know no cell: the gradient of a projected output, and sums over rows.
#pragma once

#include "cuda/elements.cuh"

namespace rnnkern::cuda {

template <class S>
__global__ void __launch_bounds__(kPointwiseThreads) output_gradient_kernel(const OutputGradient step) {
  using T = Compute<S>;
  const int64_t column = my_column();
  if (column >= step.width) return;
  for (int64_t n = blockIdx.y; n < step.rows; n += gridDim.y) {
    const int64_t at = n * step.width + column, y_at = n * step.y_stride + column;
    const auto rest = n < step.later ? load<T>(step.product, at) : load<T>(step.dfinal, at);
    store<S>(step.dout, at, load<S>(step.dy, y_at) + rest);
    if (step.previous_h == nullptr) continue;
    store<S>(step.previous_h, at, n < step.continuing ? load<S>(step.old_h, y_at) : load<S>(step.initial_h, at));
  }
}

// Sums of a slab of rows, one block for 32 columns; the rows of a slab are dealt to lanes (threadIdx.y) in turn.
inline constexpr int kSlabRows = 256, kSumColumns = 32, kSumLanes = 8;

template <class S>
__global__ void __launch_bounds__(kSumColumns* kSumLanes) partial_sums_kernel(const ColumnSums job) {
  using T = Compute<S>;
  T* lane_sums = shared_memory<T>();  // [kSumLanes][kSumColumns]
  const int64_t across = (job.columns + kSumColumns - 1) / kSumColumns;
  const int64_t slab = blockIdx.x / across, column = blockIdx.x % across * kSumColumns + threadIdx.x;
  const int64_t end = job.rows < (slab + 1) * kSlabRows ? job.rows : (slab + 1) * kSlabRows;
  Scalar<T> sum(T(0));
  for (int64_t row = slab * kSlabRows + threadIdx.y; row < end && column < job.columns; row += kSumLanes) {
    sum = sum + load<S>(job.matrix, row * job.columns + column);
  }
  lane_sums[threadIdx.y * kSumColumns + threadIdx.x] = sum.value;
  sync_block();
  if (threadIdx.y > 0 || column >= job.columns) return;
  T total = lane_sums[threadIdx.x];
  for (int lane = 1; lane < kSumLanes; ++lane) total += lane_sums[lane * kSumColumns + threadIdx.x];
  static_cast<T*>(job.partial)[slab * job.columns + column] = total;
}

// Kahan's compensated sum over the slabs: there may be very many.
template <class S>
__global__ void __launch_bounds__(kPointwiseThreads) total_sums_kernel(const ColumnSums job, int64_t slabs) {
  using T = Compute<S>;
  const int64_t column = my_column();
  if (column >= job.columns) return;
  T* out = static_cast<T*>(job.sums) + column;
  T sum = job.accumulate ? *out : T(0), lost = T(0);
  for (int64_t slab = 0; slab < slabs; ++slab) {
    const T part = static_cast<const T*>(job.partial)[slab * job.columns + column] - lost;
    const T next = sum + part;
    lost = (next - sum) - part;
    sum = next;
  }
  *out = sum;
}

template <class S>
void launch_output_gradient(const OutputGradient& step, cudaStream_t stream) {
  launch(output_gradient_kernel<S>, rows_and_columns(step.rows, step.width, stream), step);
}

template <class S>
void launch_column_sums(const ColumnSums& job, cudaStream_t stream) {
  const int64_t slabs = column_sum_slabs(job.rows);
  const dim3 grid(static_cast<unsigned>(slabs * ceil_div(job.columns, kSumColumns)));
  const size_t shared = sizeof(Compute<S>) * kSumColumns * kSumLanes;
  launch(partial_sums_kernel<S>, {grid, dim3(kSumColumns, kSumLanes), shared, stream}, job);
  launch(total_sums_kernel<S>, rows_and_columns(1, job.columns, stream), job, slabs);
}

}  // namespace rnnkern::cuda
