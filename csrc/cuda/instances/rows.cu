#include "cuda/rows.cuh"

namespace rnnkern::cuda {

int64_t column_sum_slabs(int64_t rows) { return ceil_div(rows, kSlabRows); }

int compiled_capability() { return capability_of(partial_sums_kernel<float>); }

RowKernels row_kernels(DType storage) {
  return visit_storage(storage, [](auto type) {
    using S = decltype(type);
    return RowKernels{launch_output_gradient<S>, launch_column_sums<S>};
  });
}

}  // namespace rnnkern::cuda
